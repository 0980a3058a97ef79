"""Sequences against a plain list: whatever the batching, the commits and the crashes."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rocksdict import Options, Rdict, WriteBatch

from state.behavior import BEHAVIOR, BehaviorArray
from state.errors import StateError
from state.layout import CHUNK
from state.partition import Partition
from tests.state.support import dump, records

LENGTH, SLACK = 150, 40
# Names that a careless key layout would confuse: one is the other's with a chunk's number behind it.
USERS = ["a", "a\x00\x01", "a\x00\x00", "ü", ""]


def open_small(path: Path, cache_bytes: int = 1 << 20) -> Partition:
    return Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=cache_bytes)


def rows(array: BehaviorArray) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = array.tolist()
    return found


class Fold(RuleBasedStateMachine):
    """A log is folded in batches; at the end the disk holds what folding it record by record gives."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.path = Path(self.home.name) / "state"
        self.log: list[str] = []
        """The user of each record; the record itself is told by its place."""
        self.position = 0
        self.lists: dict[str, list[tuple[int, ...]]] = {user: [] for user in USERS}

    @initialize(cache_bytes=st.sampled_from([0, 12_000, 1 << 20]))
    def start(self, cache_bytes: int) -> None:
        self.cache_bytes = cache_bytes
        self.partition = open_small(self.path, cache_bytes)

    @rule(user=st.sampled_from(USERS), size=st.integers(1, 70) | st.integers(1, 900))
    def arrive(self, user: str, size: int) -> None:
        self.log += [user] * size

    @rule(size=st.integers(1, 1500))
    def fold(self, size: int) -> None:
        stop = min(self.position + size, len(self.log))
        batch: dict[str, list[int]] = {}
        for place in range(self.position, stop):
            batch.setdefault(self.log[place], []).append(place)
        for user, places in batch.items():
            fresh = np.concatenate([records(place, place + 1) for place in places])
            self.lists[user] += rows(fresh)
            assert self.partition.sequences.append(user, fresh) == len(self.lists[user])
        self.position = stop

    @rule()
    def commit(self) -> None:
        self.partition.commit({"behaviors": self.position})

    @rule()
    def crash(self) -> None:
        self.partition.close()
        self.partition = open_small(self.path, self.cache_bytes)
        self.position = self.partition.offsets.get("behaviors", 0)
        self.lists = {user: [] for user in USERS}
        for place in range(self.position):
            self.lists[self.log[place]] += rows(records(place, place + 1))

    @rule(user=st.sampled_from(USERS), newer=st.integers(0, 600))
    def read(self, user: str, newer: int) -> None:
        oracle = self.lists[user]
        count = max(0, len(oracle) - newer)
        wanted = oracle[max(0, count - LENGTH) : count]
        found = rows(self.partition.sequences.read(user, count))
        if newer <= SLACK:
            assert found == wanted
        else:
            # What the ring has lost is lost on the old side.
            assert found == wanted[len(wanted) - len(found) :]
            assert len(found) >= min(len(wanted), LENGTH + SLACK - newer)

    @rule(user=st.sampled_from(USERS))
    def count(self, user: str) -> None:
        assert self.partition.sequences.count(user) == len(self.lists[user])

    @invariant()
    def only_unwritten_users_exceed_the_cache(self) -> None:
        if hasattr(self, "partition") and self.position == self.partition.offsets.get("behaviors", 0):
            assert 0 <= self.partition.sequences.cached_bytes <= self.cache_bytes

    def teardown(self) -> None:
        if hasattr(self, "partition"):
            self.fold(len(self.log) or 1)
            for user in USERS:
                assert rows(self.partition.sequences.read(user)) == self.lists[user][-LENGTH:]
            self.commit()
            self.partition.close()
            assert dump(self.path) == self.folded_singly()
        self.home.cleanup()

    def folded_singly(self) -> dict[bytes, bytes]:
        path = Path(self.home.name) / "singly"
        partition = open_small(path)
        for place, user in enumerate(self.log):
            partition.sequences.append(user, records(place, place + 1))
        partition.commit({"behaviors": len(self.log)})
        partition.close()
        return dump(path)


TestFold = Fold.TestCase
TestFold.settings = settings(max_examples=20, stateful_step_count=25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def filled(path: Path, user: str, count: int, cache_bytes: int = 1 << 20) -> Partition:
    """Return a partition opened again, where nothing is in memory yet."""
    partition = open_small(path)
    partition.sequences.append(user, records(0, count))
    partition.commit({})
    partition.close()
    return open_small(path, cache_bytes)


@pytest.mark.parametrize("cold", [True, False])
def test_a_view_never_changes(path: Path, cold: bool) -> None:
    partition = filled(path, "u", 500)
    sequences = partition.sequences
    if not cold:
        sequences.append("u", records(500, 501))
    held: list[tuple[BehaviorArray, bytes]] = []
    for place in range(501, 1500, 3):
        view = sequences.read("u")
        held.append((view, view.tobytes()))
        sequences.append("u", records(place, place + 3))
        if place % 5 == 0:
            partition.commit({})
    assert all(view.tobytes() == before for view, before in held)
    with pytest.raises(ValueError, match="read-only"):
        held[-1][0]["ts"] = 0
    partition.close()


def test_appending_does_not_copy_the_sequence(path: Path) -> None:
    partition = filled(path, "u", 500)
    moves = 0
    before = partition.sequences.read("u")
    for place in range(500, 1500):
        partition.sequences.append("u", records(place, place + 1))
        after = partition.sequences.read("u")
        moves += not np.shares_memory(before, after)
        before = after
    # A move costs the length of the ring, and comes once for a share of it.
    assert moves <= 1 + 1000 // ((LENGTH + SLACK) // 4)
    partition.close()


def test_appended_records_are_copied(path: Path) -> None:
    partition = open_small(path)
    mine = records(0, 3)
    partition.sequences.append("u", mine)
    mine["ts"] = -1
    assert rows(partition.sequences.read("u")) == rows(records(0, 3))
    partition.close()


@pytest.mark.parametrize("count", [1, CHUNK, 191, 192, 193, 1000])
def test_a_reread_is_the_same_hot_and_cold(path: Path, count: int) -> None:
    hot = open_small(path)
    for place in range(count):
        hot.sequences.append("u", records(place, place + 1))
    cold = filled(path.with_name("cold"), "u", count, cache_bytes=0)
    for asked in range(count + 1):
        assert rows(hot.sequences.read("u", asked)) == rows(cold.sequences.read("u", asked))
    hot.close()
    cold.close()


def test_the_oldest_that_was_overwritten_is_left_out(path: Path) -> None:
    partition = filled(path, "u", 1000)
    full = rows(records(0, 1000))
    assert rows(partition.sequences.read("u", 1000 - SLACK)) == full[960 - LENGTH : 960]
    left = rows(partition.sequences.read("u", 850))
    assert 0 < len(left) < LENGTH
    assert left == full[850 - len(left) : 850]
    assert rows(partition.sequences.read("u", 300)) == []
    partition.close()


@pytest.mark.parametrize("count", [-1, 11])
def test_a_count_that_never_was_is_refused(path: Path, count: int) -> None:
    partition = filled(path, "u", 10)
    with pytest.raises(ValueError, match="between 0 and 10"):
        partition.sequences.read("u", count)
    partition.close()


def test_neighbours_in_the_order_of_keys_are_kept_apart(path: Path) -> None:
    names = ["u", "u\0", "u\0\1", "u\0\2x", "u\1", "t", "v"]
    partition = open_small(path)
    for place, name in enumerate(names):
        partition.sequences.append(name, records(place, place + 200))
    partition.commit({})
    partition.close()
    partition = open_small(path)
    for place, name in enumerate(names):
        assert rows(partition.sequences.read(name)) == rows(records(place, place + 200))[-LENGTH:]
    partition.close()


def test_an_unknown_user_has_no_records_and_leaves_no_trace(path: Path) -> None:
    partition = open_small(path)
    assert partition.sequences.count("nobody") == 0
    assert partition.sequences.read("nobody").dtype == BEHAVIOR
    assert partition.sequences.append("nobody", records(0, 0)) == 0
    partition.commit({})
    partition.close()
    assert not [key for key in dump(path) if b"nobody" in key]


@pytest.mark.parametrize("wrong", [np.zeros(3, dtype=np.int64), np.zeros((2, 2), dtype=BEHAVIOR)])
def test_other_arrays_are_refused(path: Path, wrong: BehaviorArray) -> None:
    partition = open_small(path)
    with pytest.raises(ValueError, match="BEHAVIOR"):
        partition.sequences.append("u", wrong)
    partition.close()


def test_strided_records_are_taken_as_they_are_seen(path: Path) -> None:
    partition = open_small(path)
    partition.sequences.append("u", records(0, 10)[::3])
    assert rows(partition.sequences.read("u")) == rows(records(0, 10)[::3])
    partition.close()


def test_appending_rewrites_only_what_it_touches(path: Path) -> None:
    partition = filled(path, "u", 1000)
    assert len(partition.sequences.read("u")) == LENGTH
    # 1000 is 15 whole chunks, 2 parts and 8 records: the head alone; a part and the head; a chunk, a part and the head,
    # with two parts that go; two chunks, a part and the head.
    for size, values in ((3, 1), (7, 2), (30, 5), (128, 4)):
        partition.sequences.append("u", records(0, size))
        batch = WriteBatch(raw_mode=True)
        partition.sequences.write_into(batch)
        assert len(batch) == values
    partition.close()


def test_the_cache_stays_within_its_bound(path: Path) -> None:
    partition = open_small(path, cache_bytes=40_000)
    sequences = partition.sequences
    for number in range(100):
        sequences.append(f"user-{number}", records(0, 200))
    assert sequences.cached_bytes > 100 * 200 * BEHAVIOR.itemsize
    partition.commit({})
    assert sequences.cached_bytes <= 40_000
    for _ in range(3):
        for number in range(100):
            assert len(sequences.read(f"user-{number}")) == LENGTH
            assert sequences.cached_bytes <= 40_000
    partition.close()


def test_what_is_read_after_an_append_is_counted(path: Path) -> None:
    partition = filled(path, "u", 500)
    partition.sequences.append("u", records(500, 501))
    alone = partition.sequences.cached_bytes
    view = partition.sequences.read("u")
    assert partition.sequences.cached_bytes >= alone + view.nbytes - CHUNK * BEHAVIOR.itemsize
    partition.close()


def test_damage_is_told_and_not_served(path: Path) -> None:
    partition = filled(path, "u", 500)
    partition.close()
    found = dump(path)
    head, *chunks, first, second, third = sorted(key for key in found if key.startswith(b"su"))
    sizes = [len(found[key]) // BEHAVIOR.itemsize for key in (head, *chunks, first, second, third)]
    assert sizes == [4, 64, 64, 64, 16, 16, 16]
    for lost, counted in ((chunks[1], True), (second, False)):
        db = Rdict(str(path), Options(raw_mode=True))
        del db[lost]
        db.close()
        partition = open_small(path)
        for _ in range(2):
            with pytest.raises(StateError, match="'u' is damaged"):
                partition.sequences.read("u")
            if counted:
                assert partition.sequences.count("u") == 500
            else:
                with pytest.raises(StateError, match="'u' is damaged"):
                    partition.sequences.append("u", records(500, 501))
        partition.close()
