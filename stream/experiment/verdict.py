"""The verdict on an experiment: which arm is better, by how much, how sure that is, and which checks failed."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Protocol

import numpy as np

from stream.experiment.statistics.confidence_sequence import mixture_scale, p_value, radius
from stream.experiment.statistics.drift import Drift, drift
from stream.experiment.statistics.effect import CLICKS, SHOWN, Effect, Estimate, click_rate, compare, effective_users
from stream.experiment.statistics.intervals import Interval
from stream.experiment.statistics.moments import Array, Floats, Moments
from stream.experiment.statistics.sample_ratio import srm_p_value
from stream.experiment.wording import lift_words, signed_percent

MIN_USERS = 50
"""Effective users an arm needs before anything is concluded: fewer do not make the normal approximation good."""

MIN_CLICKS = 50
"""Clicks an arm needs, for the same reason."""

SRM_ALPHA = 0.01
DRIFT_ALPHA = 0.01


class ArmMoments(Protocol):
    """What users did, arm by arm, as far as a verdict needs it: `user_sums.UserSums` or `span_moments.SpanMoments`."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that users were seen in, sorted."""

    @property
    def crossed(self) -> int:
        """Users that were seen in more than one arm."""

    def moments(self, arm: str) -> Moments:
        """Return the moments of an arm's users: (shown, clicks), and perhaps both before the experiment."""

    def thirds(self, arm: str) -> Moments:
        """Return the moments of (shown, clicks) in the first, in the second and in the last third of the time."""


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """A check of the experiment that failed. A *fatal* one leaves no winner, whatever the numbers say."""

    kind: Literal["mismatch", "few", "crossed", "drift"]
    text: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """Two arms compared, `arm` being the one with the higher click rate; intervals and p hold at any time.

    Attributes:
        arm: the arm with the higher (adjusted) click rate.
        against: the other one.
        difference: click rate of `arm` less that of `against`, with its any-time interval.
        lift: the same relatively: 0.1 is 10% more. The interval is symmetric in the logarithm of the ratio.
        p: any-time p-value of "the click rates are equal"; at most `alpha` when the lift's interval leaves 0 out.
        variance_left: variance of the difference with CUPED over that without; 1 without a pre-experiment period.
        lifts: lift in each third of the time.
        drift_p: p-value of "the lift is the same in all thirds", for one look; NaN where there are too few data.
    """

    arm: str
    against: str
    difference: Interval
    lift: Interval
    p: float
    variance_left: float
    lifts: tuple[float, ...]
    drift_p: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an experiment says now. It may be asked at any time and acted on at any look.

    Attributes:
        winner: the arm that is better than every other one, or None while that is not known.
        sentence: the same for a person.
        alpha: the probability, over the whole experiment, to name a winner among arms that are alike.
        users: of each arm; users who were seen in two arms are in none.
        effective_users: of each arm, Kish's effective sample size: fewer than `users` when a few users come most.
        pairs: every two arms; those of the arm with the highest click rate first.
        doubts: the checks that failed.
        mismatch_p: any-time p-value of "users are divided as the shares say"; 1 when shares are not known.
    """

    winner: str | None
    sentence: str
    alpha: float
    users: dict[str, int]
    effective_users: dict[str, int]
    pairs: list[Pair]
    doubts: list[FailedCheck]
    mismatch_p: float


def analyse(
    sums: ArmMoments,
    shares: Mapping[str, float] | None,
    *,
    alpha: float,
    minimum_effect: float,
    interleaved: Collection[str] = (),
) -> Verdict:
    """Return the verdict on what users have done so far.

    The winner is the arm with the highest click rate, if its any-time p-value against each other arm is at most `alpha`
    divided by the number of pairs (Bonferroni), and if nothing fatal speaks against it.

    Args:
        sums: what users did.
        shares: of every arm of the experiment, as in its settings. None when they are not known: then the arms are
            those that users were seen in, and nothing says whether users are divided as they should be.
        alpha: as in `Verdict`.
        minimum_effect: smallest lift that is worth finding. Any value is valid if it was chosen before the data; the
            interval is narrowest for an effect of this size.
        interleaved: arms whose users see two others in one list. Their users count in the sample-ratio check, but
            they are compared with nothing (see `stream.experiment.interleaving`).
    """
    candidates = list(sums.arms) if shares is None else [name for name, share in shares.items() if share > 0]
    names = [name for name in candidates if name not in interleaved]
    moments = {name: sums.moments(name) for name in names}
    users = {name: int(moments[name].count) for name in names}
    effective = {name: int(effective_users(moments[name])) for name in names}
    ranked = sorted(names, key=lambda name: -np.nan_to_num(float(click_rate(moments[name]).value), nan=-1.0))
    pair_alpha = pairwise_alpha(alpha, len(names))
    pairs = [_pair(sums, moments, *two, alpha=pair_alpha, minimum=minimum_effect) for two in combinations(ranked, 2)]
    doubts = [*_check_size(moments), *_check_crossed(sums, users)]
    mismatch_p = 1.0
    if shares is not None:
        seen = {name: int(sums.moments(name).count) for name in shares}
        mismatch_p = srm_p_value(list(seen.values()), list(shares.values()))
        doubts += _check_sample_ratio(seen, shares, mismatch_p)
    best = pairs[0].arm if pairs else None
    against = [pair for pair in pairs if pair.arm == best]
    beats_all = len(against) == len(names) - 1 and all(pair.p <= pair_alpha for pair in against)
    winner = best if beats_all and not any(doubt.fatal for doubt in doubts) else None
    doubts += _check_drift(against)
    return Verdict(winner, _sentence(winner, pairs, doubts), alpha, users, effective, pairs, doubts, mismatch_p)


def pairwise_alpha(alpha: float, arms: int) -> float:
    """Return the alpha at which each two of so many arms are compared (Bonferroni)."""
    return alpha / max(1, math.comb(arms, 2))


def _pair(
    sums: ArmMoments, moments: Mapping[str, Moments], one: str, other: str, *, alpha: float, minimum: float
) -> Pair:
    effect, plain = compare(moments[one], moments[other]), compare(moments[one], moments[other], adjust=False)
    if effect.difference.value < 0:  # CUPED has turned the order round
        one, other = other, one
        effect, plain = compare(moments[one], moments[other]), compare(moments[one], moments[other], adjust=False)
    scale = mixture_scale(math.log1p(minimum), alpha)
    difference, lift = intervals(effect, scale=scale, alpha=alpha)
    log_ratio = effect.log_ratio
    left = float(effect.difference.variance / plain.difference.variance) if plain.difference.variance > 0 else 1.0
    steady: Drift = drift(sums.thirds(one), sums.thirds(other))
    p = float(p_value(log_ratio.value, log_ratio.variance, scale))
    return Pair(one, other, difference, lift, p, left, steady.lifts, steady.p)


def intervals(effect: Effect, *, scale: float, alpha: float) -> tuple[Interval, Interval]:
    """Return the any-time intervals of the difference and of the lift.

    Args:
        effect: of two arms.
        scale: of the lifts that are expected, on the logarithmic scale (`confidence_sequence.mixture_scale`). That of
            the differences is this times the mean click rate.
        alpha: 1 − confidence, over all looks.
    """
    rate = (effect.first.value + effect.second.value) / 2
    half = float(radius(effect.difference.variance, scale * rate, alpha))
    value = float(effect.difference.value)
    lift = lift_limits(effect.log_ratio, scale=scale, alpha=alpha)
    return Interval(value, value - half, value + half), Interval(*(float(limit) for limit in lift))


def lift_limits(log_ratio: Estimate, *, scale: float, alpha: float) -> tuple[Floats, Floats, Floats]:
    """Return the (...) lifts with their lower and upper any-time limits."""
    half = radius(log_ratio.variance, scale, alpha)
    with np.errstate(over="ignore"):  # of next to no data, the lift may be anything up to infinity
        return np.expm1(log_ratio.value), np.expm1(log_ratio.value - half), np.expm1(log_ratio.value + half)


def has_enough_data(arm: Moments) -> Array:
    """Return (...) whether an arm has enough users and clicks for the normal approximation."""
    some: Array = (effective_users(arm) >= MIN_USERS) & (arm.total[..., CLICKS] >= MIN_CLICKS)
    return some & (arm.total[..., CLICKS] < arm.total[..., SHOWN])


def _check_size(moments: Mapping[str, Moments]) -> list[FailedCheck]:
    lacking = []
    for name, arm in moments.items():
        if not has_enough_data(arm):
            users, even = int(arm.count), int(effective_users(arm))
            weight = f" (worth {even}, as a few come most)" if even < MIN_USERS <= users else ""
            lacking.append(f"{name} has {users} users{weight} and {int(arm.total[CLICKS])} clicks")
    if not lacking:
        return []
    return [FailedCheck("few", f"{'; '.join(lacking)}; {MIN_USERS} and {MIN_CLICKS} are needed", fatal=True)]


def _check_sample_ratio(users: Mapping[str, int], shares: Mapping[str, float], p: float) -> list[FailedCheck]:
    if p > SRM_ALPHA:
        return []
    total, seen = sum(shares.values()), sum(users.values())
    said = ", ".join(f"{name} {users[name]} (expected {seen * shares[name] / total:.0f})" for name in users)
    text = f"users are not divided as the shares say: {said}; p = {p:.2g}. Something loses or moves users"
    return [FailedCheck("mismatch", text, fatal=True)]


def _check_crossed(sums: ArmMoments, users: Mapping[str, int]) -> list[FailedCheck]:
    if not sums.crossed:
        return []
    text = f"{sums.crossed} users were seen in two arms and are left out; shares or salt were changed meanwhile"
    return [FailedCheck("crossed", text, fatal=sums.crossed > 0.01 * sum(users.values()))]


def _check_drift(pairs: list[Pair]) -> list[FailedCheck]:
    doubts = []
    for pair in pairs:
        if pair.drift_p <= DRIFT_ALPHA:
            thirds = ", ".join(signed_percent(lift) for lift in pair.lifts)
            text = f"the lift of {pair.arm} over {pair.against} changes: {thirds} in the thirds of the time"
            doubts.append(FailedCheck("drift", text, fatal=False))
    return doubts


def _sentence(winner: str | None, pairs: list[Pair], doubts: list[FailedCheck]) -> str:
    if fatal := [doubt.text for doubt in doubts if doubt.fatal]:
        return f"No verdict: {'; '.join(fatal)}"
    if not pairs:
        return "No verdict: there is nothing to compare"
    first = pairs[0]
    gain = lift_words(first.lift)
    if winner is None:
        sentence = f"No winner yet: {first.arm} against {first.against} {gain}, which may be chance"
        if first.lift.low > 0:
            sentence = f"No winner yet: {first.arm} is ahead of {first.against} {gain}, but not of every arm"
    elif len(pairs) == 1:
        sentence = f"{winner} wins: clicks against {first.against} {gain}"
    else:
        sentence = f"{winner} wins: clicks against the next, {first.against}, {gain}"
    return sentence + "".join(f"; {doubt.text}" for doubt in doubts)
