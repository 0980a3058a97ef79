"""How an experiment went over time: click rates within spans of time, and the lift as it stood at the end of each.

The monitor and the report draw the same curve: the same sums give the same timeline, whichever of the two holds them.
"""

import math
from typing import Protocol

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from stream.experiment.statistics.confidence_sequence import mixture_scale, radius
from stream.experiment.statistics.effect import click_rate, compare
from stream.experiment.statistics.intervals import Interval, critical_value
from stream.experiment.statistics.moments import Floats, Moments
from stream.experiment.verdict import Verdict, has_enough_data, lift_limits, pairwise_alpha


class SumsOverTime(Protocol):
    """What users did, span by span: `user_sums.UserSums` or `span_moments.SpanMoments`."""

    @property
    def edges(self) -> list[int]:
        """Times at which the spans begin, and the time at which the last one ends."""

    def per_span(self, arm: str) -> Moments:
        """Return the (spans,) moments of what users did within each span, over all users seen by its end."""

    def cumulative(self, arm: str) -> Moments:
        """Return the (spans,) moments of what users did by the end of each span, over all users seen by then."""


class Timeline(Struct, frozen=True, kw_only=True):
    """An experiment in spans of time; every list has one entry a span. What is not known has no entries, or is NaN.

    Attributes:
        edges: the times between the spans; one more than there are spans.
        ctr: arm → click rate within the span, with a 95% interval over users, for one look; it lies between 0 and 1.
        leader: the arm that is compared with each other one: the one with the highest click rate at the end.
        lift: other arm → lift of the leader over it by the end of the span, with its any-time interval. NaN while one
            of the two has too few users or clicks for a verdict.
        best: click rate to expect of the oracle within the span, over all arms.
        random: the same of a random ranking.
        regret: arm → clicks missed by the end of the span, a user of the arm.
        log_loss: arm → mean over the items shown within the span.
        log_loss_floor: the same of the true probabilities.
    """

    edges: list[float]
    ctr: dict[str, list[Interval]]
    leader: str = ""
    lift: dict[str, list[Interval]] = {}
    best: list[float] = []
    random: list[float] = []
    regret: dict[str, list[float]] = {}
    log_loss: dict[str, list[float]] = {}
    log_loss_floor: dict[str, list[float]] = {}

    def first_spans(self, count: int) -> "Timeline":
        """Return the rates and lifts of the first `count` spans."""
        return Timeline(
            edges=self.edges[: count + 1],
            ctr={arm: rates[:count] for arm, rates in self.ctr.items()},
            leader=self.leader,
            lift={arm: lifts[:count] for arm, lifts in self.lift.items()},
        )

    def between(self, first: float, last: float) -> "Timeline":
        """Return the same with edges in seconds since `first`, none before it or after `last`; all times in ms."""
        return replace(self, edges=((np.clip(self.edges, first, last) - first) / 1000).tolist())


def timeline(sums: SumsOverTime, verdict: Verdict, *, minimum_effect: float) -> Timeline:
    """Return the click rates of all arms, and the lift of the leading arm over each other one.

    A lift and its interval are those that `verdict.analyse` would have given at the end of the span, without the users
    who have been seen in two arms since.

    Args:
        sums: what users did.
        verdict: on these sums; it says which arms are compared and which one leads.
        minimum_effect: as given to `verdict.analyse`.
    """
    leader = verdict.pairs[0].arm if verdict.pairs else ""
    alpha = pairwise_alpha(verdict.alpha, len(verdict.users))
    scale = mixture_scale(math.log1p(minimum_effect), alpha)
    until = {arm: sums.cumulative(arm) for arm in verdict.users} if leader else {}
    return Timeline(
        edges=[float(edge) for edge in sums.edges],
        ctr={arm: _rates(sums.per_span(arm)) for arm in verdict.users},
        leader=leader,
        lift={arm: _lifts(until[leader], other, scale, alpha) for arm, other in until.items() if arm != leader},
    )


def rate_so_far(arm: Moments, *, alpha: float, minimum_effect: float) -> Interval:
    """Return an arm's click rate with its any-time interval."""
    rate = click_rate(arm)
    half = radius(rate.variance, mixture_scale(math.log1p(minimum_effect), alpha) * rate.value, alpha)
    return _rate_intervals(rate.value, half)[0]


def _rates(spans: Moments) -> list[Interval]:
    rate = click_rate(spans)
    # Rounding can leave the variance of users who are all alike a little below 0.
    return _rate_intervals(rate.value, critical_value() * np.sqrt(np.maximum(rate.variance, 0.0)))


def _rate_intervals(rate: Floats, half: Floats) -> list[Interval]:
    return _intervals(rate, np.maximum(rate - half, 0.0), np.minimum(rate + half, 1.0))


def _lifts(arm: Moments, against: Moments, scale: float, alpha: float) -> list[Interval]:
    known = has_enough_data(arm) & has_enough_data(against)
    limits = lift_limits(compare(arm, against).log_ratio, scale=scale, alpha=alpha)
    return _intervals(*(np.where(known, limit, np.nan) for limit in limits))


def _intervals(value: Floats, low: Floats, high: Floats) -> list[Interval]:
    columns = (np.atleast_1d(each).tolist() for each in (value, low, high))
    return [Interval(*row) for row in zip(*columns, strict=True)]
