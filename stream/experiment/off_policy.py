"""Off-policy estimates: which click rate an arm would have that was only scored, never shown.

Inverse propensity scoring (IPS; Horvitz and Thompson, JASA 1952), self-normalised (SNIPS; Swaminathan and Joachims,
NeurIPS 2015) and doubly robust (DR; Dudík, Langford and Li, ICML 2011), for lists, under one of three assumptions on
clicks (Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen, KDD 2018). Propensities are exact: the sum of the
shares of the arms that would have shown the same, as they were then. So a weight is at most 1 / the smallest share.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from msgspec import Struct

from stream.errors import ExperimentError
from stream.experiment.shadow_log import LoggedImpression
from stream.experiment.statistics.confidence_sequence import mixture_scale, radius
from stream.experiment.statistics.effect import click_rate, effective_users
from stream.experiment.statistics.intervals import Interval
from stream.experiment.statistics.moments import Floats, Moments
from stream.experiment.verdict import MIN_CLICKS, MIN_USERS

ClickModel = Literal["item", "item-position", "slate"]
"""On what the probability of a click on an item may depend, besides user, time and item: on nothing more (`item`), on
its place (`item-position`), or on its place and all other items shown (`slate`)."""

MAX_UNSUPPORTED = 0.05
"""Share of what an arm would show that no serving arm shows, above which nothing is estimated."""

_SHOWN, _WEIGHT, _CLICKS, _CORRECTED, _UNSUPPORTED, _MATCHED = range(6)


class OffPolicyEstimate(Struct, frozen=True, kw_only=True):
    """What an arm's click rate would be. Intervals hold at any time, each by itself.

    Attributes:
        arm: the arm.
        ips, snips, doubly_robust: (value, low, high).
        impressions: that were used.
        incomplete: impressions left out, as some arm's ranking is not in their score.
        users: whose they were.
        effective_users: Kish's effective sample size of the users' weights.
        matched_clicks: clicks on what the arm would have shown as well.
        unsupported: share of what the arm would show that no serving arm shows. Its clicks are unknown: every interval
            reaches from none to all of them.
        largest_weight: before clipping.
        clipped: share of the weights that were clipped; clipping makes IPS too low.
    """

    arm: str
    ips: Interval
    snips: Interval
    doubly_robust: Interval
    impressions: int
    incomplete: int
    users: int
    effective_users: float
    matched_clicks: int
    unsupported: float
    largest_weight: float
    clipped: float


def off_policy_estimate(
    impressions: Iterable[LoggedImpression],
    arm: str,
    shares: Mapping[str, float],
    *,
    alpha: float,
    minimum_effect: float,
    click_model: ClickModel = "item-position",
    clip: float = math.inf,
    users: Collection[str] | None = None,
) -> OffPolicyEstimate:
    """Return the estimates for an arm.

    Args:
        impressions: what was shown, and what every arm would have shown.
        arm: whose click rate is wanted; it may be a serving arm, as a check.
        shares: of the serving arms, as weights; each user is in one of them at random. An impression that names
            probabilities of its own, as with a bandit, counts by these.
        alpha: 1 − confidence, over all looks.
        minimum_effect: relative effect for which the intervals are narrowest.
        click_model: what is assumed of clicks.
        clip: largest weight.
        users: those that count; None for all.

    Raises:
        ExperimentError: when the click rate is not identified: rankings or support are missing, or there are too few
            users or clicks.
    """
    serving = {name: share for name, share in shares.items() if share > 0}
    fractions = {name: share / sum(serving.values()) for name, share in serving.items()}
    needed = fractions.keys() | {arm}
    sums: dict[str, Floats] = defaultdict(lambda: np.zeros(6))
    used = incomplete = weights = clipped = 0
    largest = 0.0
    for each in impressions:
        if (users is not None and each.user not in users) or each.arm not in fractions:
            continue
        if not needed <= each.slates.keys():
            incomplete += 1
            continue
        used += 1
        raw, row = _weighed(each, arm, each.shares or fractions, click_model, clip)
        weights, clipped = weights + len(raw), clipped + sum(weight > clip for weight in raw)
        largest = max(largest, *raw) if raw else largest
        sums[each.user] += row
    if not used:
        raise ExperimentError(
            f"no impression says what {', '.join(sorted(needed))} would each have shown ({incomplete} say less): give"
            " every one of these arms shadow = true, and wait for answers and outcomes"
        )
    vectors = np.stack(list(sums.values()))
    total = vectors.sum(axis=0)
    unsupported = float(total[_UNSUPPORTED] / total[_SHOWN])
    if unsupported > MAX_UNSUPPORTED:
        raise ExperimentError(
            f"{unsupported:.1%} of what {arm} would show is shown by no arm that serves, so its clicks are unknown (at"
            f" most {MAX_UNSUPPORTED:.0%} may be): give it a small share of the users instead"
            + (', or assume less of places with --clicks "item"' if click_model != "item" else "")
        )
    effective = float(effective_users(Moments.of(vectors[:, [_WEIGHT, _CLICKS]])))
    if effective < MIN_USERS or total[_MATCHED] < MIN_CLICKS:
        raise ExperimentError(
            f"{arm} would show the same to {effective:.0f} effective users, who made {total[_MATCHED]:.0f} clicks on"
            f" it: {MIN_USERS} and {MIN_CLICKS} are needed"
        )

    def rate(bottom: int, top: int) -> Interval:
        return _any_time(Moments.of(vectors[:, [bottom, top]]), alpha, minimum_effect)

    supported = 1 - unsupported
    return OffPolicyEstimate(
        arm=arm,
        ips=_widened(rate(_SHOWN, _CLICKS), unsupported),
        snips=_widened(Interval(*(supported * limit for limit in rate(_WEIGHT, _CLICKS))), unsupported),
        doubly_robust=_widened(rate(_SHOWN, _CORRECTED), unsupported),
        impressions=used,
        incomplete=incomplete,
        users=len(vectors),
        effective_users=effective,
        matched_clicks=int(total[_MATCHED]),
        unsupported=unsupported,
        largest_weight=largest,
        clipped=clipped / weights if weights else 0.0,
    )


def _weighed(
    each: LoggedImpression, arm: str, fractions: Mapping[str, float], click_model: ClickModel, clip: float
) -> tuple[list[float], Floats]:
    """The weights above 0 before clipping, and the impression's part of its user's sums."""
    row = np.zeros(6)
    target, shown = each.slates[arm], each.slates[each.arm]
    row[_SHOWN] = len(target)
    # Of the wanted arm's own model: one that differed by the answering arm would not cancel out.
    predicted = dict(zip(target, each.predicted[arm], strict=True))
    raw = []
    slates = [(each.slates[name], share) for name, share in fractions.items()]
    for place, item in enumerate(target):
        if not sum(_agreeing(slates, target, place, item, click_model)):
            row[_UNSUPPORTED] += 1
            continue
        row[_CORRECTED] += predicted[item]
    for place, item in enumerate(shown):
        if not _agrees(target, shown, place, item, click_model):
            continue
        weight = 1 / sum(_agreeing(slates, shown, place, item, click_model))
        raw.append(weight)
        weight, click = min(weight, clip), float(place in each.clicked)
        row[_WEIGHT] += weight
        row[_CLICKS] += weight * click
        row[_CORRECTED] += weight * (click - predicted[item])
        row[_MATCHED] += click
    return raw, row


def _agreeing(
    slates: Iterable[tuple[Sequence[int], float]], slate: Sequence[int], place: int, item: int, model: ClickModel
) -> Iterator[float]:
    """The shares of the arms that show an item of a slate in the same way."""
    return (share for other, share in slates if _agrees(other, slate, place, item, model))


def _agrees(other: Sequence[int], slate: Sequence[int], place: int, item: int, click_model: ClickModel) -> bool:
    """Whether another slate shows the item at this place of a slate in the same way, as far as clicks depend on it."""
    match click_model:
        case "item":
            return item in other
        case "item-position":
            return place < len(other) and other[place] == item
        case "slate":
            return other == slate


def _any_time(moments: Moments, alpha: float, minimum_effect: float) -> Interval:
    rate = click_rate(moments)
    value = float(rate.value)
    half = float(radius(rate.variance, mixture_scale(math.log1p(minimum_effect), alpha) * value, alpha))
    return Interval(value, value - half, value + half)


def _widened(interval: Interval, unsupported: float) -> Interval:
    """What no arm shows gets no click at the least, and all at the most."""
    return Interval(interval.value, max(0.0, interval.low), min(1.0, interval.high + unsupported))
