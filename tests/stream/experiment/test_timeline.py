"""The timeline is the same from either kind of sums, and says what the verdict would have said at the time."""

import numpy as np
import pytest
from hypothesis import given

from stream.experiment.timeline import Timeline, timeline
from stream.experiment.user_sums import UserSums
from tests.stream.experiment.judging import analyse
from tests.stream.experiment.test_span_moments import VISITS, Visit, counted, summed

EQUAL = {"a": 1.0, "b": 1.0}


def experiment(*, first_users: int = 20, clicks_b: float = 0.15) -> list[Visit]:
    """Visits of users of two arms, of whom few come at first."""
    rng = np.random.default_rng(4)
    return [
        (f"u{user}", "ab"[user % 2], 10, int(rng.binomial(10, clicks_b if user % 2 else 0.1)), int(time))
        for time in range(0, 60_000, 30)
        for user in [int(rng.integers(0, first_users if time < 9000 else 400))]
    ]


def assert_equal(one: Timeline, other: Timeline) -> None:
    assert (one.edges, one.leader, [*one.ctr], [*one.lift]) == (other.edges, other.leader, [*other.ctr], [*other.lift])
    for first, second in ((one.ctr, other.ctr), (one.lift, other.lift)):
        for arm in first:
            np.testing.assert_allclose(first[arm], second[arm], rtol=1e-9, atol=1e-12)


def both(visits: list[Visit]) -> tuple[Timeline, Timeline]:
    """The timeline of the report's sums, and of the monitor's."""
    sums, moments = summed(visits), counted(visits, 3)
    return tuple(timeline(each, analyse(each, EQUAL), minimum_effect=0.1) for each in (sums, moments))  # type: ignore[return-value]


@pytest.mark.long
@given(visits=VISITS)
def test_report_and_monitor_have_the_same_one_of_few_visits(visits: list[Visit]) -> None:
    assert_equal(*both(visits))


def test_report_and_monitor_have_the_same_one_of_many_visits() -> None:
    one, other = both(experiment())
    assert_equal(one, other)
    assert any(not np.isnan(lift.value) for lift in one.lift["a"])


def test_a_lift_is_what_the_verdict_would_have_said_then_and_unknown_before_that() -> None:
    visits = experiment()
    moments = counted(visits, 10)
    said = timeline(moments, analyse(moments, EQUAL), minimum_effect=0.1)
    assert said.leader == "b"
    lifts = said.lift["a"]
    assert all(np.isnan(lifts[0])), "20 users are too few for a verdict"
    known = [(end, lift) for end, lift in zip(said.edges[1:], lifts, strict=True) if not np.isnan(lift.value)]
    assert len(known) > 5
    for end, lift in known:
        then = analyse(summed([visit for visit in visits if visit[4] < end]), EQUAL)
        assert not any(doubt.fatal for doubt in then.doubts)
        (pair,) = then.pairs
        expected = pair.lift if pair.arm == "b" else [1 / (1 + limit) - 1 for limit in pair.lift]
        assert sorted(lift) == pytest.approx(sorted(expected))


def test_with_a_time_before_only_users_seen_by_then_count() -> None:
    visits, sums = experiment(), UserSums()
    before = ([f"u{user}" for user in range(400)], [50] * 400, [3 + user % 5 for user in range(400)])
    sums.add_before(*before)
    for visit in visits:
        sums.add(*visit)
    said = timeline(sums, analyse(sums, EQUAL), minimum_effect=0.1)
    for end, lift in list(zip(said.edges[1:], said.lift["a"], strict=True))[-5:]:
        then = UserSums()
        then.add_before(*before)
        for visit in visits:
            if visit[4] < end:
                then.add(*visit)
        (pair,) = analyse(then, EQUAL).pairs
        assert lift == pytest.approx(pair.lift)


def test_a_rate_and_its_limits_lie_between_0_and_1() -> None:
    visits = [(f"u{user}", "ab"[user % 2], 1, int(user < 4 or user % 7 == 0), user) for user in range(60)]
    for said in both(visits):
        limits = np.array([interval for rates in said.ctr.values() for interval in rates])
        assert np.nanmin(limits) >= 0
        assert np.nanmax(limits) <= 1
        assert np.isfinite(limits).any()


def test_its_parts_can_be_cut_and_its_times_moved() -> None:
    visits = experiment()
    sums = summed(visits)
    said = timeline(sums, analyse(sums, EQUAL), minimum_effect=0.1)
    part = said.first_spans(3)
    assert (len(part.edges), len(part.ctr["a"]), len(part.lift["a"])) == (4, 3, 3)
    moved = said.between(40.0, 59_980.0)
    assert (moved.edges[0], moved.edges[-1]) == (0.0, 59.94)
    assert moved.edges[1] == (said.edges[1] - 40) / 1000
    assert moved.ctr == said.ctr
