"""The fold of outcomes: equal to a plain oracle, whatever the batches, the repeats and the crashes between writes."""

import math
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from stream.experiment.span_moments import SpanMoments
from stream.experiment.user_sums import UserSums
from stream.monitor import counting, records
from stream.monitor.counting import (
    BIN_EDGES,
    BINS,
    ArmCounts,
    BatchChanges,
    PartitionProgress,
    WindowCounts,
    WindowPlan,
    fold,
)
from stream.monitor.users import PartitionMoments, UserCounter, UserRow
from stream.schema.events import Outcome
from tests.stream.experiment.judging import analyse

PLAN = WindowPlan(window_ms=10, close_ms=20, remember_ms=40, keep_ms=80)


class Store:
    """What a partition has on disk and in its changelog; a crash may cut a batch's writes to either."""

    def __init__(self, experiment: int = 1) -> None:
        self.experiment = experiment
        self.windows: dict[int, WindowCounts] = {}
        self.users: dict[str, UserRow] = {}
        self.sums: PartitionMoments | None = None
        self.progress = PartitionProgress(windows=[])
        self._changelog: dict[tuple[str, object], Any] = {}

    @property
    def moments(self) -> SpanMoments:
        """What the users did."""
        assert self.sums is not None
        return SpanMoments.unpack(self.sums.spans)

    def move(self) -> None:
        """Lose the disk, and restore it from the changelog."""
        kept: dict[str, dict[Any, Any]] = {
            "windows": {},
            "users": {},
            "": {"sums": None, "progress": PartitionProgress(windows=[])},
        }
        for (part, key), value in deepcopy(self._changelog).items():
            kept[part][key] = value
        self.windows, self.users = kept["windows"], kept["users"]
        self.sums, self.progress = kept[""]["sums"], kept[""]["progress"]

    def fold(
        self,
        records: Sequence[tuple[int, Outcome | None]],
        writes: int | None = None,
        logged: int | None = None,
    ) -> BatchChanges:
        """Count a batch; the process dies after so many `writes`, of which so many are `logged`."""
        begun = self.progress.begun
        users = UserCounter(self.experiment, self.sums, lambda user: deepcopy(self.users.get(user)), begun=begun)
        changes = fold(PLAN, deepcopy(self.progress), lambda start: deepcopy(self.windows.get(start)), users, records)
        steps: list[Any] = [
            lambda: setattr(self, "sums", changes.sums),
            *(lambda user=user, row=row: self.users.update({user: row}) for user, row in changes.users.items()),
            *(lambda window=window: self.windows.update({window.start: window}) for window in changes.written),
            *(lambda start=start: self.windows.pop(start, None) for start in changes.removed),
            lambda: setattr(self, "progress", changes.progress),
        ]
        for step in steps[:writes]:
            step()
        entries: list[tuple[str, object, Any]] = [
            ("", "sums", changes.sums),
            *(("users", user, row) for user, row in changes.users.items()),
            *(("windows", window.start, window) for window in changes.written),
            *(("windows", start, None) for start in changes.removed),
            ("", "progress", changes.progress),
        ]
        for part, key, value in deepcopy(entries[:writes][:logged]):
            if value is None:
                self._changelog.pop((part, key), None)
            else:
                self._changelog[part, key] = value
        return changes


def outcome(request: str, ts: int, *labels: int, arm: str = "a", first: int = 0, user: str = "u") -> Outcome:
    places = range(first, first + len(labels))
    return Outcome(
        request,
        user,
        arm,
        ts,
        1,
        ts,
        [f"item-{place}" for place in places],
        list(places),
        [0.25] * len(labels),
        [*labels],
    )


def numbered(*outcomes: Outcome | None, start: int = 0) -> list[tuple[int, Outcome | None]]:
    return list(enumerate(outcomes, start))


def test_requests_of_users_who_number_theirs_alike_count_each() -> None:
    store = Store()
    store.fold(numbered(*(outcome("1", 3, 1, 0, user=f"u{number}") for number in range(40))))
    counts = store.windows[0].arms["a"]
    assert (counts.requests, sum(counts.shown), sum(counts.clicks)) == (40, 80, 40)
    assert store.windows[0].repeated == 0


def test_counts_what_was_shown_by_arm_and_window() -> None:
    store = Store()
    store.fold(numbered(outcome("r1", 3, 1), outcome("r1", 3, 0, 0, first=1), outcome("r2", 12, 0, arm="b")))
    first, second = store.windows[0], store.windows[10]
    assert list(first.arms) == ["a"]
    counts = first.arms["a"]
    assert (counts.requests, sum(counts.shown), sum(counts.clicks)) == (1, 3, 1)
    assert counts.loss == pytest.approx(-math.log(0.25) - 2 * math.log(0.75))
    assert counts.predicted[BIN_EDGES.index(0.2)] == pytest.approx(0.75)
    assert (counts.epoch, counts.version) == (1, 3)
    assert list(second.arms) == ["b"]


@pytest.mark.parametrize(("probability", "place"), [(0.0, 0), (0.01, 1), (0.5, 9), (0.4999, 8), (1.0, 9)])
def test_every_probability_has_one_bin(probability: float, place: int) -> None:
    counts = ArmCounts.zero()
    counts.add(Outcome("r", "u", "a", 0, 1, 1, ["i"], [0], [probability], [1]), [0], request=True)
    assert counts.shown == [int(index == place) for index in range(BINS)]
    assert math.isfinite(counts.loss)


def test_an_outcome_that_comes_again_is_counted_once_even_cut_otherwise() -> None:
    store = Store()
    store.fold(numbered(outcome("r", 3, 0, 0), outcome("r", 3, 0, 0, 0), outcome("r", 3, 0)))
    window = store.windows[0]
    assert (window.arms["a"].requests, sum(window.arms["a"].shown), window.repeated) == (1, 3, 3)


def test_a_record_that_kafka_hands_over_again_is_no_repeat_but_its_window_is_written_again() -> None:
    store = Store()
    records = numbered(outcome("r", 3, 0, 0), outcome("s", 4, 1))
    store.fold(records)
    changes = store.fold(records)
    assert (changes.read_again, [window.start for window in changes.written]) == (2, [0])
    assert list(changes.users) == ["u"]
    assert store.moments.moments("a").total.tolist() == [3, 1]
    assert (store.windows[0].repeated, sum(store.windows[0].arms["a"].shown)) == (0, 3)


def test_late_outcomes_are_counted_and_said_until_the_window_has_forgotten() -> None:
    store = Store()
    store.fold(numbered(outcome("r", 3, 0), outcome("s", 29, 0), outcome("t", 4, 0), outcome("u", 30, 0)))
    assert store.windows[0].late == 0
    store.fold(numbered(outcome("v", 5, 0), outcome("w", 49, 0), outcome("x", 6, 0), start=4))
    assert (store.windows[0].late, sum(store.windows[0].arms["a"].shown), store.progress.too_late) == (2, 4, 0)
    assert store.windows[0].ids
    store.fold(numbered(outcome("y", 50, 0), outcome("z", 7, 0), outcome("r", 3, 0), start=7))
    assert (store.windows[0].late, sum(store.windows[0].arms["a"].shown), store.progress.too_late) == (2, 4, 2)
    assert not store.windows[0].ids


def test_old_windows_are_removed() -> None:
    store = Store()
    store.fold(numbered(outcome("r", 3, 0), outcome("s", 15, 0)))
    store.fold(numbered(outcome("t", 90, 0), start=2))
    assert list(store.windows) == [10, 90]
    assert store.progress.windows == [10, 90]


def test_a_record_that_is_no_outcome_is_counted_once() -> None:
    store = Store()
    store.fold(numbered(None))
    store.fold(numbered(None))
    assert store.progress.unreadable == 1


def test_what_a_window_remembers_is_bounded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_IDS", 10)
    store = Store()
    for number in range(5):
        store.fold(numbered(outcome(f"r{number}", 3, 0, 0, 0), start=number))
    window = store.windows[0]
    assert len(window.ids) // 8 <= 10
    assert (sum(window.arms["a"].shown), window.unremembered) == (15, 9)


def test_the_sum_of_parts_is_the_whole() -> None:
    both, one, other = Store(), Store(), Store()
    rows = [outcome(f"r{number}", 3, number % 2, 0, user=f"u{number}") for number in range(40)]
    both.fold(numbered(*rows))
    one.fold(numbered(*rows[:13]))
    other.fold(numbered(*rows[13:]))
    total = one.windows[0].arms["a"] + other.windows[0].arms["a"]
    whole = both.windows[0].arms["a"]
    assert total.loss == pytest.approx(whole.loss)
    total.loss = whole.loss
    assert total == whole
    moments = one.moments
    moments.merge(other.moments)
    assert moments.pack() == both.moments.pack()
    assert int(moments.moments("a").count) == 40
    assert moments.moments("a").total.tolist() == [80, 20]


def test_what_was_counted_before_it_started_over_counts_as_none() -> None:
    store, alone = Store(), Store()
    store.fold(numbered(*(outcome(f"r{number}", 3, 1, user=f"u{number % 7}") for number in range(40))))
    store.progress = PartitionProgress(windows=[], begun=1)
    alone.progress = PartitionProgress(windows=[], begun=1)
    again = numbered(*(outcome(f"r{number}", 3, 0, 0, user=f"u{number % 5}") for number in range(10)))
    for each in (store, alone):
        each.fold(again)
        each.fold(again)
    assert store.windows == alone.windows
    assert store.sums == alone.sums
    assert store.progress == alone.progress
    assert {user: store.users[user] for user in alone.users} == alone.users
    assert store.moments.moments("a").total.tolist() == [20, 0]


def test_values_from_before_it_was_kept_when_counting_began_are_read() -> None:
    encoder = msgspec.msgpack.Encoder()
    assert records.decode_window(encoder.encode([0, 3, 5, {}, 0, 0, 0, b""])).begun == 0
    assert records.decode_user(encoder.encode([1, 3, "a", 64, [[0, 1, 1]]])).begun == 0
    progress = records.decode_progress(encoder.encode([5, 3, 0, 0, [0]]))
    assert (progress.offset, progress.begun, progress.origin) == (3, 0, "")
    moments = encoder.encode(PartitionMoments(1, 3))
    assert records.decode_moments(encoder.encode(msgspec.msgpack.decode(moments)[:3])).begun == 0


@pytest.mark.long
@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12), st.integers(0, 12), st.booleans()), max_size=40),
)
def test_whatever_the_batches_crashes_and_moves_the_state_is_that_of_an_undisturbed_life(
    seed: int, cuts: list[tuple[int, int, int, bool]]
) -> None:
    chance = random.Random(seed)
    ts = 0
    rows: list[Outcome | None] = []
    for number in range(80):
        ts += chance.randrange(5)
        if rows and chance.random() < 0.2:
            rows.append(chance.choice(rows[-12:]))
        elif chance.random() < 0.05:
            rows.append(None)
        else:
            back = chance.randrange(60) if chance.random() < 0.2 else 0
            labels = [chance.randrange(2) for _ in range(3)]
            user = chance.randrange(12)
            arm = "ab"[user % 2] if user < 10 else chance.choice("ab")
            rows.append(outcome(f"r{number}", max(0, ts - back), *labels, arm=arm, user=f"u{user}"))
    records = numbered(*rows)
    calm, shaken = Store(), Store()
    for record in records:
        calm.fold([record])
    committed = 0
    for size, writes, logged, moved in cuts:
        # It dies after some of a batch's writes, and reads from the committed offset again, here or elsewhere.
        if shaken.sums is not None:
            size = max(size, shaken.sums.offset + 1 - committed)
        shaken.fold(records[committed : committed + size], writes, logged)
        if moved:
            shaken.move()
        if chance.random() < 0.5:
            shaken.fold(records[committed : committed + size])
            committed += size
    shaken.fold(records[committed:])
    shaken.move()
    assert shaken.progress == calm.progress
    # That a window is removed, or forgets its ids, may be lost on the way to the changelog; nobody looks at it again.
    assert set(shaken.windows) >= set(calm.windows) == set(shaken.progress.windows)
    for start, window in calm.windows.items():
        other = shaken.windows[start]
        assert _ids(other) == _ids(window) or not window.ids
        assert replace(other, ids=b"") == replace(window, ids=b"")
    assert shaken.sums == calm.sums
    assert {user: _row(row) for user, row in shaken.users.items()} == {
        user: _row(row) for user, row in calm.users.items()
    }
    oracle = _oracle(rows)
    assert analyse(shaken.moments, {"a": 1, "b": 1}).users == analyse(oracle, {"a": 1, "b": 1}).users
    for arm in "ab":
        assert shaken.moments.moments(arm).total.tolist() == oracle.moments(arm).total.tolist()[:2]
        assert shaken.moments.thirds(arm).outer.tolist() == oracle.thirds(arm).outer.tolist()
    assert shaken.moments.crossed == oracle.crossed


def _ids(window: WindowCounts) -> set[bytes]:
    return {window.ids[at : at + 8] for at in range(0, len(window.ids), 8)}


def _row(user: UserRow) -> tuple[str | None, int, int]:
    """What a row says, whatever the width of its spans."""
    return user.arm, sum(shown for _, shown, _ in user.spans), sum(clicks for _, _, clicks in user.spans)


def _oracle(rows: Sequence[Outcome | None]) -> UserSums:
    """PartitionMoments over what is not too late and did not come before."""
    sums, now = UserSums(), 0
    known: set[tuple[str, str, str]] = set()
    for row in rows:
        if row is None or row.ts - row.ts % PLAN.window_ms + PLAN.window_ms + PLAN.remember_ms <= now:
            continue
        now = max(now, row.ts)
        new = [index for index, item in enumerate(row.items) if (*row.request, item) not in known]
        known.update((*row.request, item) for item in row.items)
        if new:
            sums.add(row.user, row.arm, len(new), sum(row.labels[index] for index in new), row.ts)
    return sums
