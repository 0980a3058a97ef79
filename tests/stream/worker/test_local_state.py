"""Which of the states on a machine a worker opens: its own, a standby copy, or a snapshot."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from state.behavior import behaviors
from state.errors import LockedError, StateError
from state.partition import Partition
from stream.schema.position import Difference
from stream.schema.topics import Topics
from stream.settings import StateSettings
from stream.worker.local_state import LocalState
from stream.worker.metrics import WorkerMetrics
from stream.worker.snapshots import Snapshotter
from stream.worker.standby_store import StandbyStore

TOPIC = Topics().behaviors


def same(_offsets: Mapping[str, int], _origins: Mapping[str, str]) -> Difference:
    return ""


def nothing() -> None:
    pass


class Machine:
    """A worker's state directory."""

    def __init__(self, directory: Path, snapshots: Path | None = None) -> None:
        self.settings = StateSettings(
            directory=str(directory), snapshots=str(snapshots or ""), snapshot_interval_s=1.0, cache_mb=1
        )
        self.snapshotter = Snapshotter(self.settings, Topics(), WorkerMetrics(CollectorRegistry()))
        self.states = LocalState(self.settings, TOPIC, self.snapshotter)
        self.standbys = StandbyStore(self.settings, TOPIC, self.snapshotter)
        self.own = self.settings.path(0)
        self.copy = self.settings.standby_path(0)

    def open(self, path: Path) -> Partition:
        return Partition.open(path, length=self.settings.length, slack=self.settings.slack)

    def write(self, path: Path, offset: int) -> None:
        """Let a state have read `behaviors` up to an offset."""
        partition = self.open(path)
        partition.sequences.append("u", behaviors([(offset, 1, 1, 1)]))
        partition.commit({TOPIC: offset})
        partition.close()

    def reached(self) -> int:
        """Open the state that work would go on with; returns its offset."""
        partition = self.states.open(0, same, nothing)
        try:
            return partition.offsets.get(TOPIC, 0)
        finally:
            partition.close()

    def standby(self, oldest: int = 0, compare: Callable[..., Difference] = same) -> int | None:
        """Open the standby copy; returns its offset, None when there is to be none."""
        partition = self.standbys.open(0, oldest, compare, nothing)
        if partition is None:
            return None
        try:
            return partition.offsets.get(TOPIC, 0)
        finally:
            partition.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "state")


@pytest.mark.parametrize(
    ("own", "copy", "right"), [(None, 5, 5), (3, 5, 5), (5, 5, 5), (7, 5, 7), (7, None, 7), (None, None, 0)]
)
def test_work_goes_on_with_what_is_furthest_and_no_copy_is_left(
    machine: Machine, own: int | None, copy: int | None, right: int
) -> None:
    for path, offset in ((machine.own, own), (machine.copy, copy)):
        if offset is not None:
            machine.write(path, offset)
    assert machine.reached() == right
    assert machine.own.exists()
    assert not machine.copy.exists()


def test_a_copy_that_another_worker_of_the_machine_keeps_is_left_alone(machine: Machine) -> None:
    machine.write(machine.own, 3)
    machine.write(machine.copy, 5)
    kept = machine.open(machine.copy)
    assert machine.reached() == 3
    kept.close()
    assert machine.copy.exists()


def test_a_damaged_copy_is_said_and_removed(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.write(machine.own, 3)
    machine.write(machine.copy, 5)
    (machine.copy / "CURRENT").write_text("nonsense")
    assert machine.reached() == 3
    assert not machine.copy.exists()
    assert any("standby_refused" in record.getMessage() for record in caplog.records)


def test_partitions_whose_state_is_here_come_first(machine: Machine) -> None:
    machine.write(machine.settings.path(2), 1)
    machine.write(machine.settings.standby_path(3), 1)
    assert machine.states.nearest_first([0, 1, 2, 3]) == [2, 3, 0, 1]


@pytest.mark.parametrize(("own", "copy", "right"), [(None, None, 0), (4, None, 4), (4, 2, 4), (2, 4, 4)])
def test_a_copy_begins_with_what_the_worker_had_itself(
    machine: Machine, own: int | None, copy: int | None, right: int
) -> None:
    for path, offset in ((machine.own, own), (machine.copy, copy)):
        if offset is not None:
            machine.write(path, offset)
    assert machine.standby() == right
    # What was its own stays: another worker of this machine may be about to open it.
    assert machine.own.exists() == (own is not None)


def test_no_copy_is_kept_beside_the_owner_or_twice(machine: Machine) -> None:
    machine.write(machine.own, 3)
    owner = machine.open(machine.own)
    assert machine.standby() is None
    owner.close()
    machine.write(machine.copy, 9)
    other = machine.open(machine.copy)
    assert machine.standby() is None
    other.close()


def test_a_copy_begins_with_the_newest_snapshot(tmp_path: Path) -> None:
    there, here = (
        Machine(tmp_path / "there", tmp_path / "snapshots"),
        Machine(tmp_path / "here", tmp_path / "snapshots"),
    )
    there.write(there.own, 6)
    partition = there.open(there.own)
    there.snapshotter.consider({0: partition}, 0.0)
    there.snapshotter.consider({0: partition}, 2.0)
    there.snapshotter.close()
    partition.close()
    assert here.standby() == 6
    assert not here.own.exists()
    assert here.reached() == 6


@pytest.mark.parametrize("case", ["records are gone", "another topic"])
def test_a_copy_that_cannot_go_on_is_removed(machine: Machine, case: str) -> None:
    machine.write(machine.copy, 5)
    gone = case == "records are gone"
    with pytest.raises(StateError, match="cannot go on"):
        machine.standby(oldest=6 if gone else 0, compare=same if gone else lambda *_: "id")
    assert not machine.copy.exists()


def test_copies_of_no_use_are_removed_after_ten_minutes_but_not_those_of_others(machine: Machine) -> None:
    for number in range(3):
        machine.write(machine.settings.standby_path(number), 1)
    kept = machine.open(machine.settings.standby_path(1))
    for now in (0.0, 599.0):
        machine.standbys.remove_unused([0], now)
        assert all(machine.settings.standby_path(number).exists() for number in range(3))
    machine.standbys.remove_unused([0], 601.0)
    assert [machine.settings.standby_path(number).exists() for number in range(3)] == [True, True, False]
    kept.close()


def test_a_state_that_stays_locked_is_waited_for_until_the_check_ends_it(machine: Machine) -> None:
    machine.write(machine.own, 3)
    owner = machine.open(machine.own)
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        machine.states.open(0, same, check)
    with pytest.raises(LockedError):
        machine.open(machine.own)
    owner.close()
