"""Counts on their way from the primary to a replica: equal whatever comes between, refused when they are not whole."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import CheckpointError, UpdateRefused
from model.example import Example
from model.serialization.update import Update, decode, encode
from model.statistics.decayed_counts import Counts
from model.statistics.primary import STATISTICS, StatisticsPrimary
from model.statistics.replica import StatisticsReplica
from state.behavior import behaviors

LIVES = (30.0, 3600.0)
NOW = 1_700_000_000_000
STEPS = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 10**7)), min_size=1, max_size=20),
        st.sampled_from(["delta", "base", "new worker", "restart"]),
    ),
    max_size=25,
)


def primary(retention_s: float = 1e9, max_rows: int = 100) -> StatisticsPrimary:
    found = StatisticsPrimary(LIVES, max_rows=max_rows, retention_s=retention_s)
    found.begin_epoch(1)
    return found


def event(item: int, ago: int) -> tuple[int, int, int, int]:
    return item, item % 3, 1, NOW - ago


def apply(replica: StatisticsReplica, update: Update) -> None:
    replica.commit(replica.prepare(decode(encode(update))))


def asked() -> Example:
    items = np.arange(1, 12, dtype=np.uint64)
    return Example(behaviors([event(2, 50_000)]), NOW, items, (items % 3).astype(np.uint32))


def numbers(replica: StatisticsReplica) -> Counts:
    found = replica.with_numbers(asked()).numbers
    assert found is not None
    return found.astype(np.float64)


@pytest.mark.long
@given(STEPS)
def test_a_replica_arrives_at_what_the_primary_counts(steps: list[list[tuple[int, int]] | str]) -> None:
    counted, replica = primary(), StatisticsReplica(LIVES, length=1000)
    apply(replica, counted.base(STATISTICS))
    events: list[tuple[int, int, int, int]] = []
    for step in steps:
        if isinstance(step, list):
            new = [event(*each) for each in step]
            events += new
            counted.fold(behaviors(new))
        elif step == "delta":
            apply(replica, counted.delta(STATISTICS))
        elif step == "base":
            counted.base(STATISTICS)  # for workers that start; this one has the deltas
        elif step == "new worker":
            replica = StatisticsReplica(LIVES, length=1000)
            apply(replica, counted.base(STATISTICS))
        elif step == "restart":
            again = StatisticsPrimary(LIVES, max_rows=100, retention_s=1e9)
            again.load_state(counted.state())
            again.begin_epoch(counted.version.epoch + 1)
            counted = again
            apply(replica, counted.base(STATISTICS))
    apply(replica, counted.delta(STATISTICS))
    whole = primary()
    whole.fold(behaviors(events))
    expected = StatisticsReplica(LIVES, length=1000)
    apply(expected, whole.base(STATISTICS))
    np.testing.assert_allclose(numbers(replica), numbers(expected), rtol=2**-9, atol=1e-5)


def test_a_delta_holds_what_has_changed_alone() -> None:
    counted = primary()
    counted.fold(behaviors([event(1, 0), event(2, 0)]))
    changed = [counted.changed]
    counted.delta(STATISTICS)
    assert [*changed, counted.changed] == [True, False]
    counted.fold(behaviors([event(2, 0)]))
    assert counted.delta(STATISTICS).tensors["item/keys"].tolist() == [2]


def test_keys_without_an_event_for_long_enough_are_dropped_everywhere() -> None:
    counted, replica = primary(retention_s=100.0), StatisticsReplica(LIVES, length=1000)
    counted.fold(behaviors([event(1, 200_000), event(2, 200_000), event(2, 0)]))
    apply(replica, counted.base(STATISTICS))
    fresh = StatisticsReplica(LIVES, length=1000)
    apply(fresh, primary().base(STATISTICS))
    assert counted.rows["item"] == 1
    assert (numbers(replica)[0, :3] == numbers(fresh)[0, :3]).all(), "item 1 counts as never seen"
    assert numbers(replica)[1, 2] == pytest.approx(np.log(2.01), rel=1e-3)
    counted.fold(behaviors([event(1, 0)]))
    apply(replica, counted.delta(STATISTICS))
    assert numbers(replica)[0, 2] == pytest.approx(np.log(1.01), abs=1e-3)


def test_a_full_table_counts_the_keys_that_it_has_and_everything_together() -> None:
    counted = primary(max_rows=2)
    counted.fold(behaviors([event(item, 0) for item in (1, 2, 3, 4, 4)]))
    assert counted.rows == {"item": 2, "category": 2}
    state = counted.state()
    ever = state["category/sums"][:, 0, -1].tolist()
    assert dict(zip(state["category/keys"].tolist(), ever, strict=True))[2**32] == 5


def changed(update: Update, name: str, tensor: Any) -> Update:
    return dataclasses.replace(update, tensors={**update.tensors, name: tensor})


@pytest.mark.parametrize(
    ("reason", "name", "tensor"),
    [
        ("shape", "item/keys", np.array([1.0, 2.0])),
        ("shape", "item/keys", np.array([1, 1], np.uint64)),
        ("shape", "item/keys", np.array([0, 1], np.uint64)),
        ("shape", "item/times", np.zeros(1, np.int64)),
        ("shape", "item/values", np.zeros((2, 2), np.float32)),
        ("shape", "item/other", np.zeros(2, np.float32)),
        ("non-finite", "item/values", np.full((2, 3), np.nan, np.float32)),
        ("non-finite", "item/values", np.full((2, 3), 1e5, np.float32)),
        ("non-finite", "item/values", np.full((2, 3), -1, np.float32)),
        ("non-finite", "item/times", np.full(2, -(2**62), np.int64)),
    ],
)
def test_an_update_that_is_not_whole_is_refused_and_changes_nothing(reason: str, name: str, tensor: Any) -> None:
    counted, replica = primary(), StatisticsReplica(LIVES, length=1000)
    counted.fold(behaviors([event(1, 0), event(2, 0)]))
    apply(replica, counted.base(STATISTICS))
    before = numbers(replica)
    counted.fold(behaviors([event(1, 0), event(2, 0)]))
    with pytest.raises(UpdateRefused) as refused:
        apply(replica, changed(counted.delta(STATISTICS), name, tensor))
    assert refused.value.reason == reason
    assert (numbers(replica) == before).all()


def test_updates_are_taken_in_their_turn_and_of_the_same_half_lives() -> None:
    counted, replica = primary(), StatisticsReplica(LIVES, length=1000)
    counted.fold(behaviors([event(1, 0)]))
    with pytest.raises(UpdateRefused, match="does not follow"):
        apply(replica, counted.delta(STATISTICS))
    base = counted.base(STATISTICS)
    apply(replica, base)
    with pytest.raises(UpdateRefused, match="is served"):
        apply(replica, base)
    with pytest.raises(UpdateRefused, match=r"model\.statistics"):
        StatisticsReplica((1.0,), length=1000).prepare(base)


def test_counts_of_other_half_lives_are_not_taken_up() -> None:
    other = StatisticsPrimary((5.0,), max_rows=10, retention_s=1e9)
    with pytest.raises(CheckpointError, match="the arms read"):
        other.load_state(primary().state())
    with pytest.raises(CheckpointError, match="not the whole state"):
        primary().load_state({name: each for name, each in primary().state().items() if name != "item/sums"})
