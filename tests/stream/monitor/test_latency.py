"""LatencyCounts are counted by partition, window and arm, and handed on once they have changed."""

import pytest

from stream.monitor.latency import LatencyCounts, percentile
from stream.schema.events import Score, Spent


def score(arm: str, latency_ms: float, version: int = 1) -> Score:
    return Score("r", "u", 0, arm, 1, version, ["x"], [0.5], [0], 1, 0, Spent(latency_ms, 0.0, 0.0))


def test_a_change_holds_all_that_was_counted_in_its_window() -> None:
    latencies = LatencyCounts()
    latencies.add(0, 1000, score("a", 10, version=2))
    latencies.add(1, 1000, score("b", 500))
    first = latencies.take_changes()
    assert [(each.partition, each.start, [*each.arms]) for each in first] == [(0, 1000, ["a"]), (1, 1000, ["b"])]
    assert latencies.take_changes() == []
    latencies.add(0, 1000, score("a", 20))
    [again] = latencies.take_changes()
    assert again.run == first[0].run
    assert (again.arms["a"].epoch, again.arms["a"].version) == (1, 2)
    assert sum(count for _, count in again.arms["a"].latencies) == 2
    assert percentile([again.arms["a"].latencies], 99) == pytest.approx(20, rel=0.05)


def test_the_oldest_windows_are_dropped_and_stay_dropped() -> None:
    latencies = LatencyCounts()
    for start in range(40):
        latencies.add(0, start, score("a", 10))
    latencies.take_changes()
    latencies.add(0, 5, score("a", 10))
    assert latencies.take_changes() == []
