"""State and snapshots on a disk that is full, or broken: an error that says where and what to do; no commit is lost."""

import re
from pathlib import Path

import pytest

from state.behavior import behaviors
from state.errors import SnapshotError, StateError
from state.partition import Partition
from state.snapshots import Snapshots
from tests.small_disk import SmallDisk
from tests.state.support import records

FULL = r".*No space left on device.*\. Make room there, then start again: what was committed is kept\."


def filled_until_it_fails(partition: Partition, disk: SmallDisk) -> tuple[int, StateError]:
    """Commit until the disk takes no more; returns how many records were committed, and the error."""
    disk.fill(leave=256 << 10)
    committed = 0
    for end in range(100, 1_000_000, 100):
        partition.sequences.append("u", records(committed, end))
        try:
            partition.commit({"behaviors": end})
        except StateError as error:
            return committed, error
        committed = end
    pytest.fail("the disk was never full")


@pytest.mark.long
def test_a_commit_without_room_is_told_and_the_last_one_stands(small_disk: SmallDisk) -> None:
    path = small_disk.path / "partition"
    partition = Partition.open(path)
    committed, error = filled_until_it_fails(partition, small_disk)
    assert committed > 0
    assert str(error).startswith(f"cannot write to {path}: IO error: No space left on device")
    assert str(error).endswith("Make room there, then start again: what was committed is kept.")
    assert "\n" not in str(error)
    partition.close()
    small_disk.make_room()
    partition = Partition.open(path)
    assert (partition.sequences.count("u"), dict(partition.offsets)) == (committed, {"behaviors": committed})
    assert partition.sequences.read("u").tobytes() == records(committed - 1000, committed).tobytes()
    partition.close()


@pytest.mark.long
def test_closing_without_room_is_told_and_it_is_closed(small_disk: SmallDisk) -> None:
    path = small_disk.path / "partition"
    partition = Partition.open(path)
    partition.sequences.append("u", records(0, 5000))
    partition.commit({"behaviors": 5000})
    small_disk.fill()
    with pytest.raises(StateError, match=f"cannot close {path}: {FULL}"):
        partition.close()
    partition.close()
    small_disk.make_room()
    partition = Partition.open(path)
    assert (partition.sequences.count("u"), dict(partition.offsets)) == (5000, {"behaviors": 5000})
    partition.close()


def test_a_state_that_could_not_be_made_is_not_taken_for_one(small_disk: SmallDisk) -> None:
    path = small_disk.path / "partition"
    small_disk.fill()
    with pytest.raises(StateError, match=f"cannot open {path}: {FULL}"):
        Partition.open(path)
    assert not path.exists(), "else a worker would not look for a snapshot"
    small_disk.make_room()
    Partition.open(path).close()


def test_a_copy_without_room_is_told_and_work_goes_on(small_disk: SmallDisk, tmp_path: Path) -> None:
    partition = Partition.open(tmp_path / "partition")  # on another disk: nothing can be linked
    partition.sequences.append("u", records(0, 5000))
    partition.commit({"behaviors": 5000})
    small_disk.fill()
    with pytest.raises(StateError, match=f"cannot copy .* to {small_disk.path}/copy: {FULL}"):
        partition.copy(small_disk.path / "copy")
    partition.commit({"behaviors": 5001})
    partition.close()


def stored(store: Snapshots, tmp_path: Path, end: int) -> int:
    """Store a partition with so many records, recreated."""
    partition = Partition.open(tmp_path / f"partition-{end}")
    partition.sequences.append("u", records(0, end))
    partition.commit({"behaviors": end})
    partition.close()
    return store.save(tmp_path / f"partition-{end}", {"behaviors": end})


def test_a_snapshot_that_finds_no_room_here_is_not_one_that_is_damaged(small_disk: SmallDisk, tmp_path: Path) -> None:
    store = Snapshots(str(tmp_path / "snapshots"), 3)
    number = stored(store, tmp_path, 2000)
    target = small_disk.path / "state"
    small_disk.fill()
    with pytest.raises(StateError, match=f"cannot restore a snapshot to {target.parent}: {FULL}") as raised:
        store.restore(number, target)
    assert not isinstance(raised.value, SnapshotError), "an older snapshot would find no room either"
    assert [path.name for path in small_disk.path.iterdir()] == ["filler"]
    small_disk.make_room()
    store.restore(number, target)
    partition = Partition.open(target)
    assert (partition.sequences.count("u"), dict(partition.offsets)) == (2000, {"behaviors": 2000})
    partition.close()


def test_a_full_place_of_snapshots_keeps_those_that_it_has(small_disk: SmallDisk, tmp_path: Path) -> None:
    place = small_disk.path / "snapshots"
    store = Snapshots(str(place), 3, keep=2)
    first = stored(store, tmp_path, 1000)
    small_disk.fill()
    for end in (2000, 3000, 4000):
        with pytest.raises(SnapshotError, match=f"cannot write a snapshot to {place}/partition-00003: .*No space left"):
            stored(store, tmp_path, end)
    assert store.numbers() == [first]
    store.verify(first)
    small_disk.make_room()
    assert stored(store, tmp_path, 5000) == first + 1
    store.verify(first)
    store.verify(first + 1)


def rotten(path: Path, begin: float, end: float) -> None:
    """Damage a byte of every second block, from one part of the only table of a closed partition to another."""
    [table] = path.glob("*.sst")
    content = bytearray(table.read_bytes())
    for place in range(int(begin * len(content)), int(end * len(content)), 32 << 10):
        content[place] ^= 0xFF
    table.write_bytes(content)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A partition with some users and many open requests, closed."""
    path = tmp_path / "partition"
    partition = Partition.open(path)
    for user in range(50):
        partition.sequences.append(f"user-{user}", behaviors([(place + 1, 1, 1, 1) for place in range(500)]))
    for number in range(2000):
        partition.pending.put(f"request-{number}", bytes(100))
    partition.commit({"behaviors": 1})
    partition.close()
    return path


ROTTEN = (
    r": Corruption: .*\. Move the directory away to restore its newest snapshot, or to rebuild the state from Kafka\."
)


def test_open_requests_that_rot_are_told_and_not_passed_over(kept: Path) -> None:
    rotten(kept, 0.1, 0.2)
    with pytest.raises(StateError, match=f"cannot read {kept}{ROTTEN}"):
        Partition.open(kept)


@pytest.mark.parametrize("count_first", [False, True])
def test_sequences_that_rot_are_told_and_never_taken_for_those_of_new_users(kept: Path, *, count_first: bool) -> None:
    rotten(kept, 0.4, 0.9)
    partition = Partition.open(kept)
    told = []
    for user in range(50):
        try:
            counted = partition.sequences.count(f"user-{user}") if count_first else 500
            assert (counted, len(partition.sequences.read(f"user-{user}"))) == (500, 500)
        except StateError as error:
            told.append(str(error))
    partition.close()
    assert 5 < len(told) < 50
    assert all("is damaged" in text or re.match(f"cannot read {kept}{ROTTEN}", text) for text in told), told
    assert any("cannot read" in text for text in told)
    assert all("Move the" in text for text in told)
