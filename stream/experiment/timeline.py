"""How an experiment has gone: click rates span by span, and the lift as it stood at the end of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from stream.experiment.span_moments import SpanMoments
from stream.experiment.statistics.confidence_sequence import half_width, spread_for
from stream.experiment.statistics.effect import click_rate, compare
from stream.experiment.statistics.intervals import Interval
from stream.experiment.statistics.moments import Floats, Moments
from stream.experiment.verdict import alpha_of_a_pair, enough

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class PairCourse:
    """The lift of an arm over another, at the end of each span, with its any-time interval; NaN while unknown."""

    arm: str
    against: str
    lift: list[Interval]


@dataclass(frozen=True, slots=True)
class Course:
    """What each span of time says.

    Attributes:
        ends: of the spans, in units of time.
        width: of a span.
        rates: arm → click rate of what was shown within a span; 95% for one look, over users.
        lifts: of pairs of arms, of all that was shown until the end of a span.
    """

    ends: list[int]
    width: int
    rates: dict[str, list[Interval]]
    lifts: list[PairCourse]


def course(
    sums: SpanMoments,
    arms: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    spans: int,
    *,
    alpha: float,
    minimum_effect: float,
) -> Course:
    """Return how it has gone.

    Args:
        sums: what users did.
        arms: all that are compared.
        pairs: (arm, against) whose lift is asked for.
        spans: how many of the first spans are complete.
        alpha: as in `verdict.judge`, with the other arguments.
        minimum_effect: likewise.

    The intervals of the lifts are those that `judge` would have given at those times, users who have been seen in two
    arms since then being left out.
    """
    pair_alpha = alpha_of_a_pair(alpha, len(arms))
    spread = spread_for(math.log1p(minimum_effect), pair_alpha)
    ends = [(sums.first + place + 1) * sums.width for place in range(spans)]
    rates = {arm: _rates(sums.each(arm))[:spans] for arm in arms}
    lifts = [PairCourse(*pair, _lifts(sums, *pair, spread, pair_alpha)[:spans]) for pair in pairs]
    return Course(ends, sums.width, rates, lifts)


def rate_so_far(arm: Moments, *, alpha: float, minimum_effect: float) -> Interval:
    """Return an arm's click rate with its any-time interval."""
    rate = click_rate(arm)
    half = half_width(rate.variance, spread_for(math.log1p(minimum_effect), alpha) * rate.value, alpha)
    return _intervals(np.atleast_1d(rate.value), np.maximum(rate.value - half, 0), rate.value + half)[0]


def _rates(spans: Moments) -> list[Interval]:
    rate = click_rate(spans)
    half = _Z * np.sqrt(rate.variance)
    return _intervals(rate.value, np.maximum(rate.value - half, 0), rate.value + half)


def _lifts(sums: SpanMoments, arm: str, against: str, spread: float, alpha: float) -> list[Interval]:
    one, other = sums.looks(arm), sums.looks(against)
    log_ratio = compare(one, other).log_ratio
    value = np.where(enough(one) & enough(other), log_ratio.value, np.nan)
    half = half_width(log_ratio.variance, spread, alpha)
    return _intervals(np.expm1(value), np.expm1(value - half), np.expm1(value + half))


def _intervals(value: Floats, low: Floats, high: Floats) -> list[Interval]:
    columns = (np.atleast_1d(each).tolist() for each in (value, low, high))
    return [Interval(*row) for row in zip(*columns, strict=True)]
