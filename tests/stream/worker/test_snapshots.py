"""Snapshots of a worker: whose they are, and disks without room."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from state.behavior import behaviors
from state.errors import StateError
from state.partition import Partition
from state.snapshots import Snapshots
from stream.errors import WorkerError
from stream.schema.position import Difference, LogIdentity, Origin, decode_origin
from stream.schema.topics import Topics
from stream.settings import StateSettings
from stream.task.restore import Compare
from stream.worker.metrics import WorkerMetrics
from stream.worker.snapshots import Snapshotter
from tests.small_disk import SmallDisk

NOW = LogIdentity("cluster-1", "one-behaviors", "id-1", 4)


def same(_offsets: Mapping[str, int], _origins: Mapping[str, str]) -> Difference:
    return ""


def snapshotter(prefix: str, directory: Path, place: Path) -> Snapshotter:
    settings = StateSettings(directory=str(directory), snapshots=str(place), snapshot_interval_s=1.0)
    return Snapshotter(settings, Topics(prefix), WorkerMetrics(CollectorRegistry()))


def taken(prefix: str, directory: Path, place: Path, log: LogIdentity | None = None) -> Snapshotter:
    """Let a worker of the system with this prefix store a snapshot of partition 0."""
    worker = snapshotter(prefix, directory, place)
    partition = Partition.open(directory / "partition-00000")
    partition.sequences.append("u", behaviors([(1, 1, 1, 1)]))
    topic = f"{prefix}behaviors"
    partition.commit({topic: 1}, {topic: Origin(log).encode()} if log else {})
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
        other.restore(0, tmp_path / "empty" / "partition-00000", compare=same)
    assert str(raised.value) == told
    assert not (tmp_path / "empty").exists()
    assert Snapshots(str(place), 0).numbers() == [1]
    one, new = snapshotter("one-", tmp_path / "new", place), tmp_path / "new" / "partition-00000"
    assert one.restore(0, new, compare=same) is not None


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
        worker.restore(0, small_disk.path / "partition-00000", compare=same)
    small_disk.make_room()
    assert worker.restore(0, small_disk.path / "partition-00000", compare=same) is not None


def differs(now: LogIdentity) -> Compare:
    """Compare a snapshot's origin with a log, as the broker's answer would."""

    def compare(_offsets: Mapping[str, int], origins: Mapping[str, str]) -> Difference:
        origin = decode_origin(origins.get(now.topic))
        return origin.difference(now) if origin else ""

    return compare


def test_a_snapshot_of_another_cluster_is_neither_restored_nor_added_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "snapshots"
    taken("one-", tmp_path / "here", place, NOW)
    elsewhere = replace(NOW, cluster="cluster-2")
    other = taken("one-", tmp_path / "there", place, elsewhere)
    assert other.counts == {"snapshots_failed": 1}
    assert any("is of another Kafka cluster (cluster-1)" in record.getMessage() for record in caplog.records)
    with pytest.raises(WorkerError, match=r"another Kafka cluster \(cluster-1\).*state.snapshots of its own"):
        other.restore(0, tmp_path / "empty" / "partition-00000", compare=differs(elsewhere))
    assert Snapshots(str(place), 0).numbers() == [1]


def test_a_snapshot_of_an_earlier_topic_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place, empty = tmp_path / "snapshots", tmp_path / "empty" / "partition-00000"
    taken("one-", tmp_path / "first", place, NOW)
    recreated = replace(NOW, topic_id="id-2")
    worker = snapshotter("one-", tmp_path / "second", place)
    assert worker.restore(0, empty, compare=differs(recreated)) is None
    assert worker.counts == {"snapshots_refused": 1}
    assert any("recreated" in record.getMessage() for record in caplog.records)
    # The new topic's snapshots come after it, and are restored.
    assert taken("one-", tmp_path / "second", place, recreated).counts == {"snapshots": 1}
    assert worker.restore(0, empty, compare=differs(recreated)) is not None


def test_a_restore_that_is_no_longer_wanted_ends_and_leaves_nothing(tmp_path: Path) -> None:
    place, empty = tmp_path / "snapshots", tmp_path / "empty" / "partition-00000"
    worker = taken("one-", tmp_path / "first", place)

    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.restore(0, empty, compare=same, check=check)
    assert not list(empty.parent.iterdir())
    assert worker.restore(0, empty, compare=same) is not None


def test_snapshots_from_before_an_erasure_go_after_the_grace_time_but_never_the_newest(tmp_path: Path) -> None:
    place, erasures = tmp_path / "snapshots", Topics("one-").erasures
    worker = snapshotter("one-", tmp_path / "state", place)
    partition = Partition.open(tmp_path / "state" / "partition-00000")
    store = Snapshots(str(place), 0)
    for number, erased_to in enumerate((0, 0, 4)):
        partition.sequences.append("u", behaviors([(number, 1, 1, 1)]))
        partition.commit({"one-behaviors": number, erasures: erased_to})
        copy = tmp_path / f"copy-{number}"
        partition.copy(copy)
        if number == 2:
            worker.expire({0: 4})
            worker.close()
            assert store.numbers() == [1, 2]  # those there are, are all from before
            worker = snapshotter("one-", tmp_path / "state", place)
        store.save(copy, dict(partition.offsets))
    partition.close()
    assert store.numbers() == [1, 2, 3]
    worker.expire({0: 0})
    worker.expire({0: 4})
    worker.close()
    assert store.numbers() == [3]
    assert store.verify(3).offsets[erasures] == 4
