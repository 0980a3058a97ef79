"""Which of the states on a machine a worker opens: its own, a standby copy, or a snapshot."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from state.behavior import behaviors
from state.errors import LockedError, StateError
from state.partition import Partition
from stream.errors import WorkerError
from stream.schema.position import Difference, LogIdentity
from stream.schema.topics import Topics
from stream.settings import StateSettings
from stream.task.restore import Compare
from stream.worker.local_state import LocalState
from stream.worker.metrics import WorkerMetrics
from stream.worker.snapshots import Snapshotter
from stream.worker.standby_store import StandbyStore
from stream.worker.state_owner import claim_directory

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

    def write(self, path: Path, offset: int, topic: str = TOPIC) -> None:
        """Let a state have read `behaviors` up to an offset."""
        partition = self.open(path)
        partition.sequences.append("u", behaviors([(offset, 1, 1, 1)]))
        partition.commit({topic: offset})
        partition.close()

    def kept(self, path: Path) -> Mapping[str, int]:
        """Return the offsets of a closed state; none where there is no state."""
        if not path.exists():
            return {}
        partition = self.open(path)
        partition.close()
        return partition.offsets

    def reached(self, compare: Compare = same) -> int:
        """Open the state that work would go on with; returns its offset."""
        partition = self.states.open(0, compare, nothing)
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


OTHER = Topics("other-").behaviors


@pytest.mark.parametrize(
    ("own", "copy"), [(OTHER, None), (None, OTHER), (OTHER, TOPIC), (TOPIC, OTHER), (OTHER, OTHER)]
)
def test_what_another_prefix_keeps_here_is_refused_and_stays(
    machine: Machine, own: str | None, copy: str | None
) -> None:
    """Of two prefixes that share a directory, neither may go on with what the other one keeps, or remove it."""
    for path, topic in ((machine.own, own), (machine.copy, copy)):
        if topic is not None:
            machine.write(path, 5, topic)
    with pytest.raises(WorkerError, match=r"of other topics \(other-behaviors\).*state\.directory"):
        machine.standby()
    if copy is not None:  # else it is the planner that sees what was opened
        with pytest.raises(WorkerError, match="of other topics"):
            machine.reached()
    assert machine.kept(machine.own) == ({own: 5} if own else {})
    assert machine.kept(machine.copy) == ({copy: 5} if copy else {})


@pytest.mark.parametrize("own", [3, None])
def test_a_copy_of_a_topic_that_was_recreated_is_not_adopted(machine: Machine, own: int | None) -> None:
    """Its offset says nothing beside that of a state of the topic of now."""
    if own is not None:
        machine.write(machine.own, own)
    machine.write(machine.copy, 500)
    assert machine.reached(lambda offsets, _: "id" if offsets[TOPIC] == 500 else "") == (own or 0)
    assert not machine.copy.exists()


def test_a_copy_does_not_take_the_place_of_a_state_of_a_topic_that_was_recreated(machine: Machine) -> None:
    """What to do with that is for a person to say."""
    machine.write(machine.own, 3)
    machine.write(machine.copy, 5)
    assert machine.reached(lambda offsets, _: "id" if offsets[TOPIC] == 3 else "") == 3
    assert machine.kept(machine.copy) == {TOPIC: 5}


def test_a_copy_goes_on_from_itself_where_the_state_is_of_a_topic_that_was_recreated(machine: Machine) -> None:
    machine.write(machine.own, 500)
    machine.write(machine.copy, 5)
    assert machine.standby(compare=lambda offsets, _: "id" if offsets[TOPIC] == 500 else "") == 5


@pytest.mark.parametrize("difference", ["cluster", "topic"])
def test_what_is_of_another_cluster_is_refused_and_stays(machine: Machine, difference: Difference) -> None:
    machine.write(machine.copy, 5)
    with pytest.raises(WorkerError, match=r"another Kafka cluster.*state\.directory"):
        machine.standby(compare=lambda *_: difference)
    with pytest.raises(WorkerError, match=r"another Kafka cluster.*state\.directory"):
        machine.reached(lambda *_: difference)
    assert machine.kept(machine.copy) == {TOPIC: 5}


def test_copies_of_another_prefix_are_never_of_no_use(machine: Machine) -> None:
    machine.write(machine.copy, 5, OTHER)
    for now in (0.0, 601.0):
        machine.standbys.remove_unused([], now)
    assert machine.kept(machine.copy) == {OTHER: 5}


def test_a_directory_belongs_to_the_prefix_and_cluster_that_claimed_it_first(machine: Machine) -> None:
    mine = LogIdentity("cluster", TOPIC, "id", 4)
    claim_directory(machine.settings, mine)
    # Workers share it, the topic may be recreated, and the number of partitions is others' to compare.
    claim_directory(machine.settings, LogIdentity("cluster", TOPIC, "another id", 8))
    for other in (LogIdentity("cluster", OTHER, "id", 4), LogIdentity("another", TOPIC, "id", 4)):
        with pytest.raises(WorkerError, match=r"topic 'behaviors' of cluster cluster, .*state\.directory"):
            claim_directory(machine.settings, other)
    assert [path.name for path in Path(machine.settings.directory).iterdir()] == ["state-of.json"]


def test_a_claim_that_says_nothing_is_written_again(machine: Machine) -> None:
    mine = LogIdentity("cluster", TOPIC, "id", 4)
    Path(machine.settings.directory).mkdir()
    (Path(machine.settings.directory) / "state-of.json").write_bytes(b"")
    claim_directory(machine.settings, mine)
    with pytest.raises(WorkerError):
        claim_directory(machine.settings, LogIdentity("cluster", OTHER, "id", 4))


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
