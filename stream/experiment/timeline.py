"""How an experiment has gone: click rates span by span, and the lift as it stood at the end of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from msgspec import Struct

from stream.experiment.span_moments import SpanMoments
from stream.experiment.statistics.confidence_sequence import half_width, spread_for
from stream.experiment.statistics.effect import Effect, Estimate, click_rate, compare
from stream.experiment.statistics.intervals import Interval, one_look
from stream.experiment.statistics.moments import Floats, Moments
from stream.experiment.user_sums import UserSums
from stream.experiment.verdict import Verdict, alpha_of_a_pair, enough, intervals

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


class OverTime(Struct, frozen=True, kw_only=True):
    """The experiment in spans of time; every list has one entry a span. What is not known has no entries.

    Attributes:
        edges: seconds since the first impression; one more than there are spans.
        ctr: arm → click rate within the span, with a 95% interval over users, for one look.
        leader: the arm that is compared with each other one: the one with the highest click rate at the end.
        lift: other arm → lift of the leader over it by the end of the span, with its any-time interval.
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


def over_time(sums: UserSums, verdict: Verdict, *, minimum_effect: float, first: float, last: float) -> OverTime:
    """Return the spans of the experiment, with the lift as the verdict would have had it at the end of each.

    Args:
        sums: what users did, times in ms.
        verdict: on these sums; it says which arm leads.
        minimum_effect: as given to the verdict.
        first: time of the first impression, ms.
        last: time of the last one, ms.
    """
    spans = _whole(sums.edges, first, last)
    edges = np.clip(np.array(spans, dtype=np.float64), first, last)
    arms = [arm for arm in verdict.users if arm in sums.arms]
    leader = verdict.pairs[0].arm if verdict.pairs else ""
    against = [
        name for pair in verdict.pairs if leader in (pair.arm, pair.against) for name in (pair.arm, pair.against)
    ]
    alpha = verdict.alpha / max(1, math.comb(len(verdict.users), 2))
    spread = spread_for(math.log1p(minimum_effect), alpha)
    looks = {arm: sums.looks(arm, spans) for arm in arms}
    return OverTime(
        edges=((edges - first) / 1000).tolist(),
        ctr={
            arm: [one_look(Estimate(*each)) for each in zip(rates.value, rates.variance, strict=True)]
            for arm in arms
            for rates in [click_rate(sums.spans(arm, spans))]
        },
        leader=leader,
        lift={
            other: [intervals(_at(effect, look), spread=spread, alpha=alpha)[1] for look in range(len(spans) - 1)]
            for other in arms
            if other != leader and other in against and leader in looks
            for effect in [compare(looks[leader], looks[other])]
        },
    )


def _whole(edges: Sequence[int], first: float, last: float) -> list[int]:
    """Return edges without those that would leave less than half of a span at the beginning or the end."""
    kept = list(edges)
    if len(kept) > 3 and kept[1] - first < (kept[2] - kept[1]) / 2:
        del kept[1]
    if len(kept) > 3 and last - kept[-2] < (kept[-2] - kept[-3]) / 2:
        del kept[-2]
    return kept


def _at(effect: Effect, look: int) -> Effect:
    parts = (effect.first, effect.second, effect.difference, effect.log_ratio)
    return Effect(*(Estimate(part.value[look], part.variance[look]) for part in parts))
