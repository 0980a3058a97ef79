"""`bench experiment`: how often A/B tests name a winner: false positives without a lift, power with one."""

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from stream.bench.harness.ab_tests import ALPHA, MINIMUM_EFFECT, ABTests
from stream.experiment.statistics.confidence_sequence import mixture_scale, p_value
from stream.experiment.statistics.effect import CLICKS, SHOWN, Effect, compare
from stream.experiment.statistics.intervals import critical_value
from stream.experiment.statistics.moments import Array, Moments
from stream.experiment.verdict import has_enough_data
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, picture

LIFTS = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
BASE = ABTests(worlds=400, users=1000, looks=100, every=100, icc=0.03, pre_impressions=10_000)
KINDS = {
    "users return": BASE,
    "users enter one by one": replace(BASE, staggered_entry=True),
    "low intraclass correlation": replace(BASE, icc=0.002),
    "high intraclass correlation": replace(BASE, icc=0.15),
    "few users": replace(BASE, users=250),
}
_PEEKING, _ONCE, _NAIVE, _NAIVE_ONCE = "any time", "one look at the end", "naive, peeking", "naive, one look"
_CUPED = "any time, CUPED"


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Simulate every kind of A/B test without a lift, and the first kind with each lift."""
    worlds = 20 if arguments.quick else BASE.worlds
    cases = [(kind, 0.0) for kind in KINDS] + [("users return", lift) for lift in LIFTS if lift > 0]
    rows: list[dict[str, Any]] = [
        {"world": kind, "lift": lift, **winner_rates(replace(KINDS[kind], worlds=worlds, lift=lift), seed=number)}
        for number, (kind, lift) in enumerate(track(cases, "worlds", console=console, transient=True))
    ]
    without_lift = [row for row in rows if row["lift"] == 0]
    targets = [
        Target("A/A, any time, worst kind of world", max(row[_PEEKING] for row in without_lift), "of worlds", ALPHA),
        Target("A/A, with CUPED, worst kind", max(row[_CUPED] for row in without_lift), "of worlds", ALPHA),
    ]
    return Findings({"results": rows}, lambda: _picture(rows), targets, [_describe(worlds)])


def winner_rates(worlds: ABTests, *, seed: int) -> dict[str, float]:
    """Return the share of the experiments in which each method names a winner."""
    arms = worlds.draw(seed)
    plain, adjusted = compare(*arms, adjust=False), compare(*arms)
    ready = has_enough_data(arms[0]) & has_enough_data(arms[1])
    naive = _naive(arms)
    z = np.abs(plain.log_ratio.value) / np.sqrt(plain.log_ratio.variance)
    return {
        _PEEKING: _ever(ready & _significant(plain)),
        _CUPED: _ever(ready & _significant(adjusted)),
        _ONCE: float(np.mean(z[:, -1] > critical_value(1 - ALPHA))),
        _NAIVE_ONCE: float(np.mean(naive[:, -1])),
        _NAIVE: _ever(naive),
    }


def _significant(effect: Effect) -> Array:
    scale = mixture_scale(float(np.log1p(MINIMUM_EFFECT)), ALPHA)
    significant: Array = p_value(effect.log_ratio.value, effect.log_ratio.variance, scale) <= ALPHA
    return significant


def _naive(arms: tuple[Moments, Moments]) -> Array:
    """Return where a z-test of two proportions is significant, which takes all items as independent."""
    (shown, clicks), (other, others) = ((arm.total[..., SHOWN], arm.total[..., CLICKS]) for arm in arms)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = (clicks + others) / (shown + other)
        z = (clicks / shown - others / other) / np.sqrt(rate * (1 - rate) * (1 / shown + 1 / other))
    differ: Array = np.abs(z) > critical_value(1 - ALPHA)
    return differ


def _ever(looks: Array) -> float:
    return float(looks.any(axis=1).mean())


def _describe(worlds: int) -> str:
    return (
        f"{worlds} experiments a row, two equal arms, {BASE.looks * BASE.every:,} impressions of {BASE.slots} items, a "
        f"look every {BASE.every}; by default {BASE.users:,} users, click rate {BASE.rate:g}, intraclass correlation "
        f"of a user's clicks {BASE.icc:g}; as many impressions before the experiment"
    )


def _picture(rows: list[dict[str, Any]]) -> bytes:
    curve = [row for row in rows if row["world"] == "users return"]
    lifts = [100 * row["lift"] for row in curve]
    least = next((f"{lift:g}%" for lift, row in zip(lifts, curve, strict=True) if row[_CUPED] >= 0.8), "none")
    title = f"Power: with CUPED, a lift of {least} is found in at least 80% of the experiments"
    subtitle = (
        f"share of the experiments that name a winner, of {BASE.users:,} users and {BASE.looks * BASE.every:,} "
        f"impressions, with a look every {BASE.every}"
    )
    with picture(title, subtitle) as (axes, save):
        for name, colour in ((_CUPED, PALETTE[0]), (_ONCE, PALETTE[1]), (_PEEKING, PALETTE[2])):
            axes.plot(lifts, [100 * row[name] for row in curve], color=colour, marker="o", markersize=3.5, label=name)
        naive = [100 * row[_NAIVE] for row in curve]
        label = f"naive, peeking: {naive[0]:.0f}% where there is no lift"
        axes.plot(lifts, naive, color=QUIET, linewidth=1.4, linestyle=(0, (4, 3)), label=label)
        axes.set_ylim(0, 104)
        axes.legend(loc="lower right", frameon=False)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
        axes.xaxis.set_major_formatter(lambda value, _: f"+{value:g}%")
        axes.set_xlabel("true lift of the click rate")
        return save()
