"""Which guardrails hold and which break, by any-time intervals: they may be looked at as often as one likes."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
from msgspec import Struct

from stream.experiment.guardrails.counts import GuardrailCounts
from stream.experiment.statistics.confidence_sequence import mixture_scale, radius
from stream.experiment.statistics.effect import CLICKS, SHOWN, click_rate, compare, effective_users, log_rates
from stream.experiment.statistics.intervals import UNDEFINED, Interval
from stream.experiment.statistics.moments import Floats, Moments
from stream.experiment.verdict import MIN_CLICKS, MIN_USERS
from stream.experiment.wording import signed_percent
from stream.settings.guardrail import SLOW_SHARE, Guardrail

_DEVIATION = 0.25
"""Intervals of rates with an absolute limit are narrowest where a rate is off its limit by this part of it."""

State = Literal["holds", "breaks", "undecided", "unknown"]


class GuardrailResult(Struct, frozen=True, kw_only=True):
    """What one guardrail says of one arm.

    Attributes:
        guardrail: the metric in words.
        arm: the arm.
        limit: in words, with its direction.
        value, low, high: the metric with its any-time interval; a relative change where the limit is one. NaN (null in
            JSON) where there are too few data.
        state: `breaks` when the whole interval is beyond the limit, `holds` when none of it is, `undecided` in between;
            `unknown` when there are too few data for an interval.
        found: value for a person; where there are too few data, what is lacking.
        interval: from low to high for a person; empty where there are too few data.
        text: all of it for a person.
    """

    guardrail: str
    arm: str
    limit: str
    value: float
    low: float
    high: float
    state: State
    found: str
    interval: str
    text: str


def check_guardrails(
    guardrails: Sequence[Guardrail],
    counts: GuardrailCounts,
    users: Mapping[str, Collection[str]],
    *,
    alpha: float,
    minimum_effect: float,
) -> list[GuardrailResult]:
    """Return what each guardrail says of each arm; an arm is not held against itself.

    All intervals hold together and at all looks with probability 1 − alpha (Bonferroni over guardrails and arms). So a
    guardrail that is at its limit or better in every arm is said to break in at most alpha of the experiments.

    Args:
        guardrails: from the experiment's file.
        counts: what was read.
        users: arm → its users, who were in no other arm.
        alpha: 1 − confidence, over all guardrails, arms and looks.
        minimum_effect: relative change that is worth finding; intervals of relative limits and of the calibration are
            narrowest for changes of that size.
    """
    tests = [(each, arm) for each in guardrails for arm in users if arm != each.relative_to]
    results = []
    for guardrail, arm in tests:
        units = _units(guardrail, counts, arm, users[arm])
        level, against = alpha / len(tests), guardrail.relative_to
        if guardrail.metric == "calibration":
            interval, lacking = calibration(units, math.log1p(minimum_effect), level)
        elif against is not None:
            control = _units(guardrail, counts, against, users[against])
            interval, lacking = change_against_control(units, control, math.log1p(minimum_effect), level)
        else:
            limit = SLOW_SHARE if guardrail.metric == "latency_p99_ms" else guardrail.limit
            interval, lacking = rate_against_limit(units, limit, alpha=level)
        results.append(_result(guardrail, arm, interval, lacking))
    return results


def rate_against_limit(units: Floats, limit: float, *, alpha: float) -> tuple[Interval, str]:
    """Return a rate with its any-time interval, and what is lacking for one.

    The variance is that over units, and never less than that of independent events at the limit. So an arm in which
    nothing has happened yet has an interval, too, and few events do not look surer than they are.

    Args:
        units: (n, 2) of each unit how many times something could happen, and how often it did.
        limit: the rate that is asked about, above 0; chosen before the data.
        alpha: 1 − confidence, over all looks.
    """
    moments = Moments.of(units)
    trials, events = float(moments.total[SHOWN]), float(moments.total[CLICKS])
    if (effective := int(effective_users(moments))) < MIN_USERS:
        return UNDEFINED, f"{len(units)} units (worth {effective}, as they are uneven), {MIN_USERS} are needed"
    if trials * limit < MIN_CLICKS:
        return UNDEFINED, f"{trials:,.0f} cases, {math.ceil(MIN_CLICKS / limit):,} are needed to judge such a limit"
    variance = np.maximum(click_rate(moments).variance, limit / trials)
    half = float(radius(variance, mixture_scale(_DEVIATION * limit, alpha), alpha))
    return Interval(events / trials, max(0.0, events / trials - half), events / trials + half), ""


def _units(guardrail: Guardrail, counts: GuardrailCounts, arm: str, users: Collection[str]) -> Floats:
    """(units, 2) of each unit the cases and the events."""
    match guardrail.metric:
        case "latency_p99_ms":
            return counts.slow(arm, guardrail.limit)
        case "unanswered":
            return counts.unanswered(arm)
        case "calibration":
            return counts.predictions(users)
        case "action":
            return counts.actions(users, guardrail.action, guardrail.within_s)


def calibration(units: Floats, effect: float, alpha: float) -> tuple[Interval, str]:
    """Return predicted over real clicks with its any-time interval, and what is lacking for one.

    The interval is symmetric in the logarithm, and its variance is over users (the delta method, as for click rates).

    Args:
        units: (users, 2) clicks and summed probabilities of each user.
        effect: logarithm of the ratio for which the interval is narrowest.
        alpha: 1 − confidence, over all looks.
    """
    moments = Moments.of(units)
    if lacking := _lacking(moments, moments.total[SHOWN], "users", "clicks"):
        return UNDEFINED, lacking
    logs, covariance = log_rates(moments)
    return _exponential(float(logs[0]), float(covariance[0, 0]), effect, alpha), ""


def change_against_control(units: Floats, control: Floats, effect: float, alpha: float) -> tuple[Interval, str]:
    """Return the relative change of a rate against the control's, with its any-time interval, and what is lacking.

    Args:
        units: (n, 2) of each unit how many times something could happen, and how often it did.
        control: (m, 2) the same of the control arm.
        effect: logarithm of the ratio for which the interval is narrowest.
        alpha: 1 − confidence, over all looks.
    """
    one, other = Moments.of(units), Moments.of(control)
    for moments, whose in ((one, ""), (other, " of the control")):
        if lacking := _lacking(moments, moments.total[CLICKS], f"users or minutes{whose}", "events"):
            return UNDEFINED, lacking
    ratio = compare(one, other, adjust=False).log_ratio
    found = _exponential(float(ratio.value), float(ratio.variance), effect, alpha)
    return Interval(*(limit - 1 for limit in found)), ""


def _exponential(value: float, variance: float, effect: float, alpha: float) -> Interval:
    half = float(radius(np.asarray(variance), mixture_scale(effect, alpha), alpha))
    return Interval(math.exp(value), math.exp(value - half), math.exp(min(value + half, 700.0)))


def _lacking(moments: Moments, events: float, units: str, what: str) -> str:
    effective = int(effective_users(moments))
    if effective >= MIN_USERS and events >= MIN_CLICKS:
        return ""
    count = f"{int(moments.count):,} {units} (worth {effective:,}, as they are uneven) and {int(events):,} {what}"
    return f"{count}; {MIN_USERS} and {MIN_CLICKS} are needed"


def _result(guardrail: Guardrail, arm: str, interval: Interval, lacking: str) -> GuardrailResult:
    value, low, high = interval
    limit = SLOW_SHARE if guardrail.metric == "latency_p99_ms" else guardrail.limit
    state: State
    if lacking or math.isnan(low):
        state = "unknown"
    elif guardrail.at_most is not None:
        state = "breaks" if low > limit else "holds" if high <= limit else "undecided"
    else:
        state = "breaks" if high < limit else "holds" if low >= limit else "undecided"
    found, *ends = [_number(guardrail, each) for each in (value, low, high)]
    interval_words = " to ".join(ends)
    if state == "unknown":
        found, interval_words = f"unknown: {lacking}", ""
    within = f" (any time: {interval_words})" if interval_words else ""
    return GuardrailResult(
        guardrail=guardrail.name,
        arm=arm,
        limit=guardrail.limit_words,
        value=value,
        low=low,
        high=high,
        state=state,
        found=found,
        interval=interval_words,
        text=f"{guardrail.name} {found}{within}, limit {guardrail.limit_words}",
    )


def _number(guardrail: Guardrail, value: float) -> str:
    if guardrail.relative_to is not None:
        return signed_percent(value, 1)
    return f"{100 * value:.3g}%" if guardrail.metric in ("latency_p99_ms", "unanswered") else f"{value:.3g}"
