"""Tables that forget, against a dict: who gets a row, which rows go, what followers hear, what a checkpoint keeps."""

import gc
import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.embedding.admission import Admission
from model.embedding.initial import Initial, initial_vectors
from model.embedding.learned import KEY_EVENTS, LearnedTable
from model.embedding.served import ServedTable
from model.embedding.table import EmbeddingTable

DIM = 3
INITIAL = Initial(5, 0.3)
KEYS = np.arange(1, 13, dtype=np.uint64)


@dataclass(frozen=True)
class Rules:
    max_rows: int = 100
    admit_after: int = 1
    expire_ms: int = 0

    def table(self) -> LearnedTable:
        return LearnedTable(
            DIM,
            initial=INITIAL,
            max_rows=self.max_rows,
            admission=Admission(self.admit_after, 64),
            expire_after_s=self.expire_ms / 1000,
        )


@dataclass
class Row:
    row: int
    touched: int
    vector: npt.NDArray[np.float64]
    total: float = 0.0


@dataclass
class Oracle:
    """What a table is to do, key by key."""

    rules: Rules
    rows: dict[int, Row] = field(default_factory=dict)
    seen: Counter[int] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    now: int = -1
    swept: int = -1

    def advance(self, now: int) -> None:
        if self.now < 0:
            self.swept = now
        self.now = max(self.now, now)
        if self.rules.expire_ms and 32 * (self.now - self.swept) >= self.rules.expire_ms:
            self.swept = self.now
            for key in [key for key, row in self.rows.items() if self.now - row.touched >= self.rules.expire_ms]:
                del self.rows[key]
                self.counts["expired"] += 1

    def step(self, keys: list[int], gradients: npt.NDArray[np.float32], lr: float) -> None:
        own = {key: gradients[np.array(keys) == key].astype(np.float64).sum(0) for key in keys if key}
        known = [key for key in own if key in self.rows]
        wanted = []
        for key in (key for key in own if key not in self.rows):
            self.seen[key] += keys.count(key)
            if self.rules.admit_after > 1 and self.seen[key] < self.rules.admit_after:
                self.counts["refused"] += 1
            else:
                wanted.append(key)
        lacking = len(self.rows) + len(wanted) - self.rules.max_rows
        cold = sorted((row.touched, row.row, key) for key, row in self.rows.items() if key not in known)
        for _, _, key in cold[: max(lacking, 0)]:
            del self.rows[key]
            self.counts["evicted"] += 1
        for key in wanted:
            if len(self.rows) == self.rules.max_rows:
                self.counts["dropped"] += 1
                continue
            lowest = min(set(range(len(self.rows) + 1)) - {row.row for row in self.rows.values()})
            vector = initial_vectors(np.array([key], np.uint64), DIM, INITIAL)[0].astype(np.float64)
            self.rows[key] = Row(lowest, self.now, vector)
            self.counts["admitted"] += 1
        for key, gradient in own.items():
            if key in self.rows:
                row = self.rows[key]
                row.touched = self.now
                row.total += float((gradient**2).mean())
                row.vector -= lr * gradient / math.sqrt(row.total)


def learn(table: LearnedTable, keys: list[int], gradients: npt.NDArray[np.float32], lr: float = 0.1) -> None:
    taken = table.take(np.array(keys, np.uint64))
    (taken.embed() * torch.from_numpy(gradients)).sum().backward()  # type: ignore[no-untyped-call]
    table.step(taken, lr=lr)


def touch(table: LearnedTable, now: int, *keys: int) -> None:
    table.advance(now)
    learn(table, list(keys), np.ones((len(keys), DIM), np.float32))


def follow(table: LearnedTable, follower: ServedTable) -> None:
    """Bring a follower up to date as a delta does."""
    gone, (keys, vectors) = table.gone(), table.touched()
    assert not np.intersect1d(gone, keys).size
    follower.write(follower.place(keys, torch.from_numpy(vectors), gone))
    table.clear_touched()


def assert_equal(one: EmbeddingTable, other: EmbeddingTable) -> None:
    assert one.gather(KEYS).numpy().tobytes() == other.gather(KEYS).numpy().tobytes()
    assert len(one) == len(other)


rules = st.builds(
    Rules,
    max_rows=st.sampled_from([0, 1, 2, 3, 5, 8, 100]),
    admit_after=st.sampled_from([1, 1, 2, 3]),
    expire_ms=st.sampled_from([0, 40, 64, 1000]),
)
steps = st.tuples(
    st.sampled_from(["step", "step", "step", "delta", "base", "checkpoint"]),
    st.integers(0, 90),
    st.lists(st.integers(0, 12), min_size=1, max_size=8),
)


Steps = list[tuple[str, int, list[int]]]
lives = given(rules, st.lists(steps, min_size=1, max_size=25), st.integers(0, 2**16))
FEW = 20
"""Examples of a quick run."""


def check_against_a_dict(rules: Rules, steps: Steps, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, oracle = rules.table(), Oracle(rules)
    follower = ServedTable(DIM, initial=INITIAL)
    for what, now, keys in steps:
        if what == "step":
            gradients = rng.normal(size=(len(keys), DIM)).astype(np.float32)
            for each in (table, oracle):
                each.advance(now)
            learn(table, keys, gradients)
            oracle.step(keys, gradients, 0.1)
        elif what == "delta":
            follow(table, follower)
            assert_equal(follower, table)
        elif what == "base":
            follower = ServedTable(DIM, initial=INITIAL)
            all_keys, vectors = table.publish_all()
            follower.assign(all_keys, torch.from_numpy(vectors))
            assert_equal(follower, table)
        else:
            state = table.state()
            table = rules.table()
            table.load_state(state)
            again = table.state()
            assert {name: each.tobytes() for name, each in again.items()} == {
                name: each.tobytes() for name, each in state.items()
            }
        state = table.state()
        rows = zip(state["keys"].tolist(), state["rows"].tolist(), state["times"].tolist(), strict=True)
        assert {key: (row, touched) for key, row, touched in rows} == {
            key: (row.row, row.touched) for key, row in oracle.rows.items()
        }
        assert len(table) == len(oracle.rows) <= rules.max_rows
        assert {event: table.counts[event] for event in KEY_EVENTS} == {
            event: oracle.counts[event] for event in KEY_EVENTS
        }
    expected = initial_vectors(KEYS, DIM, INITIAL).astype(np.float64)
    for key, row in oracle.rows.items():
        expected[key - 1] = row.vector
    assert table.gather(KEYS).numpy() == pytest.approx(expected, abs=1e-5)
    follow(table, follower)
    assert_equal(follower, table)


def check_restored(rules: Rules, steps: Steps, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, other = rules.table(), rules.table()
    for number, (what, now, keys) in enumerate(steps):
        if number == len(steps) // 2:
            other = rules.table()
            other.load_state(table.state())
        gradients = rng.normal(size=(len(keys), DIM)).astype(np.float32)
        for each in (table, other):
            each.advance(now)
            learn(each, keys, gradients)
            if what == "delta":
                each.clear_touched()
    one, two = table.state(), other.state()
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


@settings(max_examples=FEW)
@lives
def test_a_table_is_a_dict_that_forgets_and_followers_equal_it(rules: Rules, steps: Steps, seed: int) -> None:
    check_against_a_dict(rules, steps, seed)


@settings(max_examples=FEW)
@lives
def test_a_restored_table_goes_on_to_the_bit(rules: Rules, steps: Steps, seed: int) -> None:
    check_restored(rules, steps, seed)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_against_a_dict, check_restored])
@lives
def test_so_it_is_in_many_lives(
    check: Callable[[Rules, Steps, int], None], rules: Rules, steps: Steps, seed: int
) -> None:
    check(rules, steps, seed)


def test_a_key_whose_row_expired_begins_anew_when_it_comes_back() -> None:
    table, fresh = Rules(expire_ms=1000).table(), Rules().table()
    touch(table, 0, 1, 2)
    touch(table, 900, 2)
    touch(table, 999, 3)
    assert len(table) == 3
    touch(table, 1031, 3)
    assert len(table) == 2
    assert table.counts["expired"] == 1
    key = np.array([1], np.uint64)
    assert (table.gather(key).numpy() == initial_vectors(key, DIM, INITIAL)).all()
    touch(table, 1040, 1)
    touch(fresh, 0, 1)
    assert table.gather(key).numpy().tobytes() == fresh.gather(key).numpy().tobytes()
    assert table.state()["rows"].tolist() == [0, 1, 2], "the row that was free is used again"


def test_late_samples_move_event_time_nowhere() -> None:
    table = Rules(expire_ms=1000).table()
    touch(table, 5000, 1)
    touch(table, 10, 2)
    touch(table, 5900, 3)
    assert len(table) == 3, "what came late was touched when it came"
    touch(table, 6000, 3)
    assert table.state()["keys"].tolist() == [3]


def test_a_key_that_went_and_came_back_between_two_deltas_is_no_tombstone() -> None:
    table, follower = Rules(expire_ms=100).table(), ServedTable(DIM, initial=INITIAL)
    touch(table, 0, 1, 2)
    follow(table, follower)
    touch(table, 200, 1)
    assert table.gone().tolist() == [2]
    follow(table, follower)
    assert_equal(follower, table)
    assert not table.gone().size


def test_a_key_that_came_back_and_went_again_around_a_checkpoint_is_a_tombstone() -> None:
    rules, follower = Rules(max_rows=1), ServedTable(DIM, initial=INITIAL)
    table, restored = rules.table(), rules.table()
    touch(table, 0, 1)
    follow(table, follower)
    touch(table, 1, 2)
    touch(table, 2, 1)
    restored.load_state(table.state())
    touch(restored, 3, 2)
    assert restored.gone().tolist() == [1]
    follow(restored, follower)
    assert_equal(follower, restored)


@pytest.mark.long
def test_keys_that_nobody_was_told_of_leave_no_tombstones() -> None:
    table = Rules(max_rows=4).table()
    for number in range(1000):
        touch(table, number, 1 + number)
    assert table.counts["evicted"] == 996
    assert not table.gone().size


def test_a_full_table_forgets_what_was_touched_longest_ago() -> None:
    table = Rules(max_rows=640).table()
    for now, start in enumerate(range(1, 641, 64)):
        touch(table, now, *range(start, start + 64))
    touch(table, 100, *range(1, 33), 1000)
    assert table.counts["evicted"] == 10, "a 64th of the rows at once"
    keys = set(table.state()["keys"].tolist())
    assert keys == {*range(1, 33), *range(43, 641), 1000}


@pytest.mark.long
def test_a_table_through_which_many_keys_pass_takes_no_more_memory_than_for_those_that_live() -> None:
    table, follower = Rules(10_000, expire_ms=100).table(), ServedTable(DIM, initial=INITIAL)
    taken = []
    tracemalloc.start()
    for now in range(0, 10_000, 50):
        touch(table, now, *range(10 * now + 1, 10 * now + 501))
        follow(table, follower)
        if now in (1_000, 9_950):
            gc.collect()
            taken.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert table.counts["admitted"] == 100_000
    assert_equal(follower, table)
    assert table.state()["rows"].max() < 2_000
    assert taken[1] < 2 * taken[0], "nine times as many keys have passed"


# --- admission ---


@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=40), max_size=20), st.integers(2, 9))
def test_few_keys_are_counted_exactly(batches: list[list[int]], admit_after: int) -> None:
    admission, oracle = Admission(admit_after, 1000), Counter[int]()
    for batch in batches:
        keys, seen = np.unique(np.array(batch, np.uint64), return_counts=True)
        oracle.update(batch)
        admitted = admission.admits(keys, seen)
        assert admitted.tolist() == [oracle[key] >= admit_after for key in keys.tolist()]


def test_a_key_is_hardly_ever_admitted_too_early_and_never_too_late() -> None:
    capacity = 20_000
    rng = np.random.default_rng(0)
    keys = rng.integers(1, 2**64, 10 * capacity, np.uint64)
    admission, early = Admission(3, capacity), 0
    for part in np.array_split(keys, 100):
        once = np.ones(len(part), np.int64)
        early += int(admission.admits(part, once).sum()) + int(admission.admits(part, once).sum())
        assert admission.admits(part, once).all()
    assert 0 < early < 0.005 * 2 * len(keys)


def test_counts_of_long_ago_are_forgotten_and_those_of_lately_are_not() -> None:
    admission, once = Admission(2, 100), np.ones(1, np.int64)
    others = np.random.default_rng(1).integers(1, 2**64, 220, np.uint64)
    key = np.array([7], np.uint64)
    assert not admission.admits(key, once)[0]
    admission.admits(others[:99], np.ones(99, np.int64))
    assert admission.admits(key, once)[0], "as many others may come"
    admission.admits(others, np.ones(220, np.int64))
    admission.admits(others[:100] ^ np.uint64(1), np.ones(100, np.int64))
    assert not admission.admits(key, once)[0]


def test_a_sketch_of_another_size_begins_with_no_counts() -> None:
    keys, seen = np.array([7], np.uint64), np.ones(1, np.int64)
    before, smaller, same = Admission(2, 100), Admission(2, 10), Admission(2, 100)
    before.admits(keys, seen)
    for other, admitted in ((smaller, False), (same, True)):
        other.load_state(before.state())
        assert other.admits(keys, seen)[0] == admitted
    same.load_state(Admission().state())
