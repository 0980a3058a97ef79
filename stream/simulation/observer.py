"""Follows a running simulation: snapshots for the live view, rates for the report."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from stream.experiment.statistics.intervals import percentiles, wilson
from stream.experiment.verdict import Verdict
from stream.report.schema import ArmTrace, RatePoint
from stream.simulation.terminal_view import ArmSnapshot, Snapshot
from stream.simulation.traffic import Traffic

_RECENT_S = 10.0
"""How far back rates, latency and freshness look."""
_LOSS_WINDOW_S = 5.0
_RATE_EVERY_S = 1.0
_VERDICT_EVERY_S = 2.0


class Observer:
    """Follows the traffic of a simulation; call it a few times a second.

    Args:
        analyse: returns the verdict on the traces of the arms.

    Attributes:
        rates: one point a second of the traffic.
    """

    def __init__(self, analyse: Callable[[Mapping[str, ArmTrace]], Verdict]) -> None:
        self._analyse = analyse
        self._verdict: tuple[float, str] = (-math.inf, "")
        self.rates: list[RatePoint] = []
        self._counts: deque[tuple[float, int, int, int, int]] = deque()

    def snapshot(self, traffic: Traffic, phase: str, elapsed: float, total: float = 0.0) -> Snapshot:
        """Return the present state."""
        totals = traffic.totals
        events = totals.behaviors + totals.impressions + totals.clicks
        now = (elapsed, events, totals.answered, totals.clicks, totals.trained)
        if self._counts and elapsed < self._counts[-1][0]:
            self._counts.clear()
        self._counts.append(now)
        while elapsed - self._counts[0][0] > _RECENT_S:
            self._counts.popleft()
        events_s, scores_s, clicks_s, samples_s = self._per_second()
        traces = totals.traces()
        latency = _recent(*(zip(reversed(trace.at), reversed(trace.latency), strict=True) for trace in traces.values()))
        freshness = _recent(reversed(totals.freshness))
        return Snapshot(
            phase=phase,
            elapsed=elapsed,
            total=total,
            events=events_s,
            scores=scores_s,
            clicks=clicks_s,
            samples=samples_s,
            latency_p50=latency[0],
            latency_p99=latency[1],
            freshness_p50=freshness[0],
            freshness_p99=freshness[1],
            lag=traffic.in_flight + traffic.untrained,
            dead_letters=totals.dead_letters,
            arms=[_arm(name, trace) for name, trace in traces.items()],
            verdict=self._verdict_sentence(traces, elapsed),
        )

    def note_rate(self, elapsed: float) -> None:
        """Keep the present rates for the report, once a second."""
        if not self.rates or elapsed - self.rates[-1].at >= _RATE_EVERY_S:
            events, scores, _, samples = self._per_second()
            if not math.isnan(events):
                self.rates.append(RatePoint(elapsed, events, scores, samples))

    def _verdict_sentence(self, traces: Mapping[str, ArmTrace], elapsed: float) -> str:
        """Return the verdict as a sentence, at most `_VERDICT_EVERY_S` old; empty with fewer than two arms."""
        at, sentence = self._verdict
        if len(traces) > 1 and not 0 <= elapsed - at < _VERDICT_EVERY_S:
            sentence = self._analyse(traces).sentence
            self._verdict = elapsed, sentence
        return sentence

    def _per_second(self) -> tuple[float, float, float, float]:
        first, last = self._counts[0], self._counts[-1]
        seconds = last[0] - first[0]
        if seconds < 1:
            return (math.nan,) * 4
        events, scores, clicks, samples = (
            (after - before) / seconds for before, after in zip(first[1:], last[1:], strict=True)
        )
        return events, scores, clicks, samples


def _recent(*measured: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return median and 99th percentile of the values (at, value), newest first, of the last seconds of each."""
    values = []
    for points in measured:
        newest = None
        for at, value in points:
            newest = at if newest is None else newest
            if newest - at > _RECENT_S:
                break
            values.append(value)
    p50, p99 = percentiles(values, (50, 99))
    return p50, p99


def _arm(name: str, trace: ArmTrace) -> ArmSnapshot:
    ctr = wilson(sum(trace.clicks), sum(trace.shown))
    return ArmSnapshot(
        name=name,
        epoch=trace.epoch,
        version=trace.version,
        impressions=len(trace.at),
        clicks=sum(trace.clicks),
        ctr=ctr.value,
        ctr_low=ctr.low,
        ctr_high=ctr.high,
        log_loss=_log_loss(trace),
    )


def _log_loss(trace: ArmTrace) -> list[float]:
    """Return the mean log loss in windows of equal length, oldest first; NaN where nothing was shown."""
    windows = (np.asarray(trace.at) / _LOSS_WINDOW_S).astype(np.int64)
    losses = np.bincount(windows, weights=trace.losses)
    shown = np.bincount(windows, weights=trace.shown)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: list[float] = (losses / shown).tolist()
    return mean
