"""The aggregate: the sum of the newest partials; windows close, are published once, and again when they change."""

import json
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from stream.experiment.span_moments import SpanMoments
from stream.experiment.user_sums import UserSums
from stream.experiment.verdict import analyse
from stream.monitor.aggregate import Aggregate
from stream.monitor.counting import PartitionProgress, WindowCounts, WindowPlan, fold
from stream.monitor.latency import class_of
from stream.monitor.records import (
    AnswerCounts,
    AnswersPartial,
    MomentsPartial,
    ProgressPartial,
    WindowPartial,
    decode_arm_window,
    decode_partial,
    encode_json,
    encode_packed,
)
from stream.monitor.users import UserCounter, experiment_id
from stream.monitor.web.state_json import state_json
from stream.schema.events import Outcome
from stream.schema.update_headers import UpdateHeaders
from stream.settings import Settings, convert
from tests.near import near

PLAN = WindowPlan(window_ms=1000, close_ms=2000, remember_ms=10_000, keep_ms=20_000)
EQUAL = {"a": 1.0, "b": 1.0}


def settings(*arms: str) -> Settings:
    return convert({"arms": [{"name": arm} for arm in arms]})


def visits(count: int = 3000) -> list[Outcome]:
    """Visits of 240 users, half of them in `a`, who click half as much again as those in `b`."""
    rng = np.random.default_rng(2)
    rows = []
    for number in range(count):
        user = int(rng.integers(0, 240))
        labels = (rng.random(5) < (0.15 if user % 2 else 0.1)).astype(int).tolist()
        items = [f"item-{place}" for place in range(5)]
        arm = "a" if user % 2 else "b"
        rows.append(
            Outcome(f"r{number}", f"u{user}", arm, 7 * number, 1, number, items, [*range(5)], [0.1] * 5, labels)
        )
    return rows


def counted(aggregate: Aggregate, rows: list[Outcome], partitions: int = 3, experiment: int = 0) -> None:
    """Bring an aggregate the partials of partitions among which the users are divided."""
    for partition in range(partitions):
        mine = [(offset, row) for offset, row in enumerate(rows) if int(row.user[1:]) // 2 % partitions == partition]
        changes = fold(
            PLAN, PartitionProgress(windows=[]), lambda _: None, UserCounter(experiment, None, lambda _: None), mine
        )
        for window in changes.written:
            aggregate.add(WindowPartial(PLAN.window_ms, partition, replace(window, ids=b"")))
        aggregate.add(decode_partial(encode_packed(MomentsPartial(partition, changes.sums))))


def said(state: object) -> Any:
    """What the page reads."""
    return json.loads(encode_json(state))


def part(partition: int, start: int, offset: int, *labels: int, user: str = "u", arm: str = "a") -> WindowPartial:
    places = list(range(len(labels)))
    items = [f"item-{place}" for place in places]
    outcome = Outcome(
        f"r{partition}-{offset}", user, arm, start, 1, offset, items, places, [0.25] * len(labels), [*labels]
    )
    users = UserCounter(0, None, lambda _: None)
    [window] = fold(PLAN, PartitionProgress(windows=[]), lambda _: None, users, [(offset, outcome)]).written
    return WindowPartial(PLAN.window_ms, partition, replace(window, ids=b""))


def test_the_whole_is_the_sum_of_the_newest_fragments_of_all_partitions() -> None:
    aggregate = Aggregate(PLAN)
    aggregate.add(part(0, 0, 5, 1, 0))
    aggregate.add(part(1, 0, 2, 0))
    aggregate.add(part(0, 0, 4, 1, 1, 1, 1))
    aggregate.add(replace(part(2, 0, 9, 1), window_ms=77))
    counts = aggregate.totals(0)["a"]
    assert (counts.requests, sum(counts.shown), sum(counts.clicks)) == (2, 3, 1)


def test_a_closed_window_is_published_once_and_again_when_it_changes() -> None:
    aggregate = Aggregate(PLAN)
    aggregate.add(part(0, 0, 1, 1, 0))
    aggregate.add(part(0, 2999, 2, 0))
    assert list(aggregate.due_records()) == []
    aggregate.add(part(0, 3000, 3, 0))
    [record] = aggregate.due_records()
    assert (record.arm, record.start, record.end, record.revision) == ("a", 0, 1000, 1)
    assert (record.impressions, record.shown, record.clicks, record.ctr) == (1, 2, 1, 0.5)
    assert record.calibration == 0.5
    assert list(aggregate.due_records()) == []
    aggregate.add(part(1, 0, 1, 1))
    [again] = aggregate.due_records()
    assert (again.revision, again.shown, aggregate.revised) == (2, 3, 1)
    assert decode_arm_window(encode_json(again)) == again


def test_another_monitor_publishes_only_what_is_not_there() -> None:
    first, second = Aggregate(PLAN), Aggregate(PLAN)
    for partial in (part(0, 0, 1, 1, 0), part(1, 0, 1, 1, 0, arm="b"), part(0, 3000, 3, 0)):
        first.add(partial)
        second.add(decode_partial(encode_packed(partial)))
    records = list(first.due_records())
    second.add_published(records[0])
    assert list(second.due_records()) == records[1:]


def test_silence_closes_all_windows() -> None:
    aggregate = Aggregate(PLAN)
    aggregate.add(part(0, 0, 1, 1, 0))
    aggregate.set_idle(False)
    assert list(aggregate.due_records()) == []
    aggregate.set_idle(True)
    assert len(list(aggregate.due_records())) == 1


def test_old_windows_go() -> None:
    aggregate = Aggregate(PLAN)
    aggregate.add(part(0, 0, 1, 1))
    aggregate.add(part(0, 21_000, 2, 1))
    assert aggregate.starts() == [21_000]


def test_the_picture_shows_closed_windows_and_says_what_was_refused() -> None:
    aggregate = Aggregate(PLAN)
    for offset in range(40):
        aggregate.add(part(offset, 0, offset, 1, 0, 0, 0, user=f"u{offset}"))
        aggregate.add(part(offset, 0, offset, 1, 1, 0, 0, user=f"u{offset}", arm="b"))
    aggregate.add(part(0, 9000, 90, 1, 1))
    aggregate.add(ProgressPartial(3, PartitionProgress(too_late=2, unreadable=1, windows=[])))
    aggregate.add(
        AnswersPartial("run", 0, 9000, {"b": AnswerCounts([(class_of(20.0), 9), (class_of(500.0), 1)], 2, 8)})
    )
    aggregate.add_update(UpdateHeaders("b", "delta", 2, 9, 10, clicks=(8000, 8800)), 9000)
    state = said(state_json(aggregate, PLAN, settings("b", "a"), 9500))
    assert state["windows"] == {"closed": 1, "open": 1}
    by_name = {arm["name"]: arm for arm in state["arms"]}
    assert list(by_name) == ["b", "a"]
    b = by_name["b"]
    assert (b["impressions"], b["shown"], b["clicks"]) == (40, 160, 80)
    assert b["served"] == {"epoch": 2, "version": 8}
    assert b["published"] == {"epoch": 2, "version": 9, "at": 9000}
    assert b["answers"] == 10
    assert abs(b["latency_ms"]["p50"] / 20 - 1) < 0.06
    assert abs(b["latency_ms"]["p99"] / 500 - 1) < 0.06
    assert by_name["a"]["latency_ms"] == {"p50": None, "p99": None}
    assert state["freshness_s"]["p50"] == 0.6
    assert (state["counters"]["too_late"], state["counters"]["unreadable"]) == (2, 1)


def test_the_picture_of_nothing_is_one() -> None:
    state = said(state_json(Aggregate(PLAN), PLAN, settings("a", "b"), 0))
    assert [arm["shown"] for arm in state["arms"]] == [0, 0]
    assert state["verdict"]["winner"] is None
    assert state["course"]["ends"] == []


@pytest.mark.long
def test_the_verdict_is_that_on_all_outcomes_as_the_settings_ask_for_it() -> None:
    rows, aggregate, sums = visits(), Aggregate(PLAN), UserSums()
    counted(aggregate, rows)
    for row in rows:
        sums.add(row.user, row.arm, len(row.items), sum(row.labels), row.ts)
    for changes in ({}, {"alpha": 0.01, "minimum_effect": 0.5}, {"alpha": 1e-30}):
        asked = convert({"arms": [{"name": "a"}, {"name": "b"}], "experiment": changes})
        verdict = said(state_json(aggregate, PLAN, asked, 0))["verdict"]
        expected = analyse(sums, EQUAL, alpha=asked.experiment.alpha, minimum_effect=asked.experiment.minimum_effect)
        assert near(verdict, said(expected))
        assert verdict["winner"] == (None if changes == {"alpha": 1e-30} else "a")


def test_the_page_is_told_which_arms_interleave_others() -> None:
    asked = convert({"arms": [{"name": "a"}, {"name": "b"}, {"name": "c", "interleave": ["a", "b"]}]})
    assert said(state_json(Aggregate(PLAN), PLAN, asked, 0))["interleaved"] == {"c": ["a", "b"]}
    assert said(state_json(Aggregate(PLAN), PLAN, settings("a", "b"), 0))["interleaved"] == {}


@pytest.mark.long
def test_the_course_ends_where_outcomes_are_still_to_come() -> None:
    aggregate = Aggregate(PLAN)
    counted(aggregate, visits())
    course = said(state_json(aggregate, PLAN, settings("a", "b"), 0))["course"]
    assert 3 * course["width"] > aggregate.event_time - PLAN.close_ms - course["ends"][-1] >= 0
    (pair,) = course["lifts"]
    assert (pair["arm"], pair["against"]) == ("a", "b")
    assert len(pair["lift"]) == len(course["rates"]["a"]) == len(course["ends"])
    aggregate.set_idle(True)
    whole = said(state_json(aggregate, PLAN, settings("a", "b"), 0))
    assert whole["course"]["ends"][-1] > aggregate.event_time
    assert whole["course"]["lifts"][0]["lift"][-1] == pytest.approx(whole["verdict"]["pairs"][0]["lift"])


@pytest.mark.long
def test_sums_of_another_experiment_and_older_ones_change_nothing() -> None:
    aggregate = Aggregate(PLAN, experiment=7)
    counted(aggregate, visits(), experiment=7)
    before = aggregate.sums().pack()
    counted(aggregate, visits(500), experiment=8)
    counted(aggregate, visits(500), experiment=7)
    assert aggregate.sums().pack() == before


def test_another_experiment_starts_over() -> None:
    rows = visits(400)
    first = fold(
        PLAN,
        PartitionProgress(windows=[]),
        lambda _: None,
        UserCounter(1, None, lambda _: None),
        list(enumerate(rows[:200])),
    )
    users = UserCounter(2, first.sums, first.users.get)
    windows = {window.start: window for window in first.written}
    second = fold(PLAN, first.progress, windows.get, users, list(enumerate(rows[200:], 200)))
    moments = SpanMoments.unpack(second.sums.spans)
    assert sum(int(moments.moments(arm).total[0]) for arm in "ab") == 5 * 200
    assert {user.experiment for user in second.users.values()} == {2}


def test_the_name_and_the_salt_tell_experiments_apart() -> None:
    ids = {experiment_id(convert({"salt": salt, "experiment": {"name": name}})) for salt in ("x", "y") for name in "ab"}
    assert len(ids) == 4


def test_windows_of_this_partition_are_told_apart_by_offset_only() -> None:
    aggregate = Aggregate(PLAN)
    aggregate.add(WindowPartial(PLAN.window_ms, 0, WindowCounts(0, offset=3, arms={})))
    before = aggregate.changes
    aggregate.add(WindowPartial(PLAN.window_ms, 0, WindowCounts(0, offset=3, arms={})))
    assert aggregate.changes == before


def restarted(partial: WindowPartial, begun: int) -> WindowPartial:
    return replace(partial, window=replace(partial.window, begun=begun))


def test_a_partition_that_starts_over_drops_what_was_counted_of_it_and_of_it_alone() -> None:
    aggregate, alone = Aggregate(PLAN), Aggregate(PLAN)
    counted(aggregate, visits(300), partitions=1)
    aggregate.add(part(0, 9000, 9000, 1, 1))
    aggregate.add(ProgressPartial(0, PartitionProgress(too_late=7, windows=[], offset=9000)))
    aggregate.add(ProgressPartial(0, PartitionProgress(windows=[], begun=5)))
    assert aggregate.begun(0) == 5
    assert aggregate.starts() == []
    late = part(0, 3000, 9999, 1, 1, 1)
    for partial in (part(1, 3000, 9000, 1, 0), late, restarted(part(0, 3000, 1, 0), begun=5), late):
        aggregate.add(partial)
    for partial in (part(1, 3000, 9000, 1, 0), part(0, 3000, 1, 0)):
        alone.add(partial)
    page = [said(state_json(each, PLAN, settings("a", "b"), 0)) for each in (aggregate, alone)]
    assert page[0] == page[1]
    assert aggregate.counters()["too_late"] == 0


def test_what_was_published_of_a_topic_that_was_recreated_is_corrected() -> None:
    aggregate = Aggregate(PLAN)
    for partial in (part(0, 0, 1, 1, 1), part(0, 3000, 3, 0)):
        aggregate.add(partial)
    [record] = aggregate.due_records()
    assert (record.shown, record.clicks) == (2, 2)
    for partial in (restarted(part(0, 0, 0, 0), begun=5), restarted(part(0, 3000, 1, 0), begun=5)):
        aggregate.add(partial)
    [record] = aggregate.due_records()
    assert (record.start, record.shown, record.clicks, record.revision) == (0, 1, 0, 2)
