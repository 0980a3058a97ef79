"""Snapshots of a worker: whose they are, and disks without room."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from state.behavior import behaviors
from state.errors import StateError
from state.partition import Partition
from state.snapshots import Snapshots
from stream.errors import WorkerError
from stream.schema.topics import Topics
from stream.settings import StateSettings
from stream.worker.metrics import WorkerMetrics
from stream.worker.snapshots import Snapshotter
from tests.small_disk import SmallDisk


def snapshotter(prefix: str, directory: Path, place: Path) -> Snapshotter:
    settings = StateSettings(directory=str(directory), snapshots=str(place), snapshot_interval_s=1.0)
    return Snapshotter(settings, Topics(prefix), WorkerMetrics(CollectorRegistry()), lambda: None)


def taken(prefix: str, directory: Path, place: Path) -> Snapshotter:
    """Let a worker of the system with this prefix store a snapshot of partition 0."""
    worker = snapshotter(prefix, directory, place)
    partition = Partition.open(directory / "partition-00000")
    partition.sequences.append("u", behaviors([(1, 1, 1, 1)]))
    partition.commit({f"{prefix}behaviors": 1})
    worker.consider({0: partition}, 0.0)
    worker.consider({0: partition}, 2.0)
    worker.close()
    partition.close()
    return worker


def test_snapshots_of_another_system_are_neither_restored_nor_added_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "snapshots"
    assert taken("one-", tmp_path / "one", place).counts == {"snapshots": 1}
    other = taken("other-", tmp_path / "other", place)
    assert other.counts == {"snapshots_failed": 1}
    told = (
        f"snapshot 1 of partition 0 in {place} is of other topics (one-behaviors), this system reads other-behaviors:"
        " give each topics.prefix a state.snapshots of its own"
    )
    assert any(told in record.getMessage() for record in caplog.records)
    with pytest.raises(WorkerError) as raised:
        other.restore(0, tmp_path / "empty" / "partition-00000")
    assert str(raised.value) == told
    assert not (tmp_path / "empty").exists()
    assert Snapshots(str(place), 0).numbers() == [1]
    assert snapshotter("one-", tmp_path / "new", place).restore(0, tmp_path / "new" / "partition-00000") is not None


def test_a_newest_snapshot_that_is_damaged_does_not_keep_the_next_from_being_stored(tmp_path: Path) -> None:
    place = tmp_path / "snapshots"
    taken("one-", tmp_path / "one", place)
    [manifest] = place.glob("*/*.json")
    manifest.write_bytes(b"{}")
    assert taken("one-", tmp_path / "again", place).counts == {"snapshots": 1}


def test_a_restore_without_room_is_told_and_never_taken_for_no_snapshot(tmp_path: Path, small_disk: SmallDisk) -> None:
    place = tmp_path / "snapshots"
    taken("one-", tmp_path / "one", place)
    small_disk.fill()
    worker = snapshotter("one-", small_disk.path, place)
    with pytest.raises(StateError, match=f"cannot restore a snapshot to {small_disk.path}: .*No space left.*Make room"):
        worker.restore(0, small_disk.path / "partition-00000")
    small_disk.make_room()
    assert worker.restore(0, small_disk.path / "partition-00000") is not None
