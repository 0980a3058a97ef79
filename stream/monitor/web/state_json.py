"""What the page shows, as JSON.

The verdict is on all that has come. The rest is of closed windows and spans only, since in an open one the clicks are
there before the rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stream.experiment.guardrails.results import GuardrailResult
from stream.experiment.guardrails.words import guardrail_words
from stream.experiment.span_moments import SpanMoments
from stream.experiment.statistics.effect import CLICKS, SHOWN, effective_users
from stream.experiment.statistics.intervals import percentiles
from stream.experiment.timeline import rate_so_far, timeline
from stream.experiment.verdict import analyse
from stream.monitor.aggregate import Aggregate
from stream.monitor.counting import ArmCounts, WindowPlan
from stream.monitor.latency import percentile
from stream.monitor.records import calibration, curve
from stream.settings import ExperimentSettings, Settings

_LATELY_MS = 60_000


def state_json(
    aggregate: Aggregate,
    plan: WindowPlan,
    settings: Settings,
    now_ms: int,
    guardrails: Sequence[GuardrailResult] = (),
) -> dict[str, Any]:
    """Return the state of the experiment, as msgspec writes it: NaN is null, an interval [value, low, high].

    Args:
        aggregate: what was counted.
        plan: lengths of time.
        settings: the arms in their order, which others that were counted follow; and what a verdict rests on.
        now_ms: the time, ms since the epoch.
        guardrails: what they say, as of a moment ago.
    """
    starts = aggregate.starts()
    closed = [start for start in starts if aggregate.is_closed(start)]
    by_window = {start: aggregate.totals(start) for start in closed}
    sums, shares = aggregate.sums(), {arm.name: arm.share for arm in settings.arms}
    names = [*shares, *sorted({*sums.arms, *(name for totals in by_window.values() for name in totals)} - set(shares))]
    overall = {name: _sum(totals[name] for totals in by_window.values() if name in totals) for name in names}
    fresh = [ms / 1000 for at, ms in aggregate.freshness if at >= now_ms - 5 * _LATELY_MS]
    return {
        "now": now_ms,
        "event_time": aggregate.event_time,
        "window_ms": plan.window_ms,
        "windows": {"closed": len(closed), "open": len(starts) - len(closed)},
        "from": closed[0] if closed else None,
        "to": closed[-1] + plan.window_ms if closed else None,
        **_experiment(aggregate, sums, shares, settings, guardrails),
        "arms": [_arm(name, overall[name], sums, settings.experiment, aggregate, now_ms) for name in names],
        "freshness_s": dict(zip(("p50", "p99"), percentiles(fresh), strict=True)) | {"clicks": len(fresh)},
        "counters": {
            name: aggregate.counters()[name] for name in ("repeated", "late", "too_late", "unremembered", "unreadable")
        }
        | {"revised": aggregate.revised},
    }


def _experiment(
    aggregate: Aggregate,
    sums: SpanMoments,
    shares: Mapping[str, float],
    settings: Settings,
    guardrails: Sequence[GuardrailResult],
) -> dict[str, Any]:
    experiment = settings.experiment
    alpha, minimum = experiment.alpha, experiment.minimum_effect
    mixed = {arm.name: arm.interleave for arm in settings.arms if arm.interleave}
    verdict = analyse(sums, shares, alpha=alpha, minimum_effect=minimum, interleaved=mixed)
    over = sum(aggregate.is_over(end) for end in sums.edges[1:])
    course = timeline(sums, verdict, minimum_effect=minimum).first_spans(over)
    fatal = any(doubt.fatal for doubt in verdict.doubts)
    leader = verdict.winner or (verdict.pairs[0].arm if verdict.pairs and not fatal else "")
    return {
        "experiment": {"name": experiment.name, "minimum_effect": minimum, "alpha": alpha},
        "explore": settings.bandit.explore,
        "verdict": verdict,
        "guardrails": guardrails,
        "guardrail_words": guardrail_words(guardrails, leader, brief=True),
        "interleaved": mixed,
        "course": {
            "ends": [int(edge) for edge in course.edges[1:]],
            "width": sums.width,
            "rates": course.ctr,
            "lifts": [{"arm": course.leader, "against": other, "lift": lifts} for other, lifts in course.lift.items()],
        },
    }


def _arm(
    name: str, total: ArmCounts, sums: SpanMoments, experiment: ExperimentSettings, aggregate: Aggregate, now_ms: int
) -> dict[str, Any]:
    shown, clicks = sum(total.shown), sum(total.clicks)
    answers = [
        part.arms[name]
        for start, parts in aggregate.answers.items()
        if start >= now_ms - _LATELY_MS
        for part in parts.values()
        if name in part.arms
    ]
    served = max(((each.epoch, each.version) for each in answers), default=(total.epoch, total.version))
    epoch, version, learned_at = aggregate.learned.get(name, (0, 0, 0))
    latencies = [each.latencies for each in answers]
    moments = sums.moments(name)
    return {
        "name": name,
        "so_far": {
            "users": int(moments.count),
            "effective_users": int(effective_users(moments)),
            "shown": int(moments.total[SHOWN]),
            "clicks": int(moments.total[CLICKS]),
            "ctr": rate_so_far(moments, alpha=experiment.alpha, minimum_effect=experiment.minimum_effect),
        },
        "impressions": total.requests,
        "shown": shown,
        "clicks": clicks,
        "log_loss": total.loss / shown if shown else np.nan,
        "calibration": calibration(total),
        "curve": curve(total),
        "served": {"epoch": served[0], "version": served[1]},
        "published": {"epoch": epoch, "version": version, "at": learned_at} if learned_at else None,
        "answers": sum(count for each in latencies for _, count in each),
        "latency_ms": {"p50": percentile(latencies, 50), "p99": percentile(latencies, 99)},
    }


def _sum(counts: Iterable[ArmCounts]) -> ArmCounts:
    total = ArmCounts.zero()
    for each in counts:
        total = total + each
    return total
