"""What the page shows, as JSON: closed windows only, since in an open one the clicks are there before the rest."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stream.monitor.board import Board
from stream.monitor.counting import Counts, Plan
from stream.monitor.latency import percentile
from stream.monitor.records import calibration, curve
from stream.statistics import Interval, clustered_rate, lift, percentiles, wilson

_POINTS = 60
_LATELY_MS = 60_000
_BUCKETS = np.arange(64)


def picture(board: Board, plan: Plan, arms: Sequence[str], now_ms: int) -> dict[str, Any]:
    """Return the state of the experiment.

    Args:
        board: what was counted.
        plan: lengths of time.
        arms: names in the order of the settings; others that were counted follow.
        now_ms: the time, ms since the epoch.
    """
    starts = board.starts()
    closed = [start for start in starts if board.is_closed(start)]
    by_window = {start: board.totals(start) for start in closed}
    names = [*arms, *sorted({name for totals in by_window.values() for name in totals} - set(arms))]
    overall = {name: _sum(totals[name] for totals in by_window.values() if name in totals) for name in names}
    step = plan.window_ms * max(1, -(-_span(closed, plan) // (_POINTS * plan.window_ms)))
    fresh = [ms / 1000 for at, ms in board.freshness if at >= now_ms - 5 * _LATELY_MS]
    return {
        "now": now_ms,
        "event_time": board.event_time,
        "window_ms": plan.window_ms,
        "point_ms": step,
        "windows": {"closed": len(closed), "open": len(starts) - len(closed)},
        "from": closed[0] if closed else None,
        "to": closed[-1] + plan.window_ms if closed else None,
        "arms": [_arm(name, overall[name], by_window, step, board, now_ms) for name in names],
        "comparisons": [_comparison(name, overall[name], names[0], overall[names[0]]) for name in names[1:]],
        "freshness_s": dict(zip(("p50", "p99"), map(_number, percentiles(fresh)), strict=True))
        | {"clicks": len(fresh)},
        "counters": {
            name: board.counters()[name] for name in ("repeated", "late", "too_late", "unremembered", "unreadable")
        }
        | {"revised": board.revised},
    }


def _arm(
    name: str, total: Counts, by_window: dict[int, dict[str, Counts]], step: int, board: Board, now_ms: int
) -> dict[str, Any]:
    shown, clicks = sum(total.shown), sum(total.clicks)
    points: dict[int, list[Counts]] = {}
    for start, totals in by_window.items():
        if name in totals:
            points.setdefault(start - start % step, []).append(totals[name])
    answers = [
        part.arms[name]
        for start, parts in board.answers.items()
        if start >= now_ms - _LATELY_MS
        for part in parts.values()
        if name in part.arms
    ]
    served = max(((each.epoch, each.version) for each in answers), default=(total.epoch, total.version))
    epoch, version, learned_at = board.learned.get(name, (0, 0, 0))
    latencies = [each.latencies for each in answers]
    return {
        "name": name,
        "impressions": total.requests,
        "shown": shown,
        "clicks": clicks,
        "ctr": _interval(clustered_rate(_BUCKETS, np.array(total.users_shown), np.array(total.users_clicks))),
        "log_loss": _number(total.loss / shown) if shown else None,
        "calibration": calibration(total),
        "curve": curve(total),
        "points": [_point(start, _sum(parts)) for start, parts in sorted(points.items())],
        "served": {"epoch": served[0], "version": served[1]},
        "published": {"epoch": epoch, "version": version, "at": learned_at} if learned_at else None,
        "answers": sum(count for each in latencies for _, count in each),
        "latency_ms": {"p50": _number(percentile(latencies, 50)), "p99": _number(percentile(latencies, 99))},
    }


def _point(start: int, counts: Counts) -> dict[str, Any]:
    shown, clicks = sum(counts.shown), sum(counts.clicks)
    return {
        "at": start,
        "shown": shown,
        "clicks": clicks,
        "ctr": _interval(wilson(clicks, shown)),
        "log_loss": _number(counts.loss / shown) if shown else None,
    }


def _comparison(name: str, counts: Counts, base: str, other: Counts) -> dict[str, Any]:
    both = [(_BUCKETS, np.array(each.users_shown), np.array(each.users_clicks)) for each in (counts, other)]
    known = all(sum(each.shown) for each in (counts, other))
    return {"arm": name, "than": base, "lift": _interval(lift(*both)) if known else None}


def _sum(counts: Iterable[Counts]) -> Counts:
    total = Counts.zero()
    for each in counts:
        total = total + each
    return total


def _span(starts: Sequence[int], plan: Plan) -> int:
    return starts[-1] + plan.window_ms - starts[0] if starts else 0


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(Interval._fields, interval, strict=True)}


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
