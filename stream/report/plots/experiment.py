"""The pictures of an experiment over time, from its report. matplotlib is imported when one is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stream.experiment.statistics.intervals import Interval
from stream.experiment.timeline import Timeline
from stream.experiment.wording import signed_percent
from stream.report.formatting import percent
from stream.report.plots.common import draw_freshness, draw_latencies, draw_throughput
from stream.report.plots.figure import QUIET, colours, label_ends, picture, time_axis
from stream.report.schema import ExperimentReport, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

_MOST = 10.0
"""The largest lift that is drawn: 1000% more clicks."""


def experiment_plots(report: ExperimentReport, trace: Trace) -> dict[str, bytes]:
    """Draw every picture for which there are data: file name without ending → PNG."""
    spans, drawn = report.over_time, {}
    palette = colours(report.plan)
    if any(arm.shown for arm in report.arms.values()):
        rates = {name: arm.ctr for name, arm in report.arms.items() if name in spans.ctr}
        drawn["ctr"] = draw_click_rates(spans, rates, palette)
    if any(np.isfinite(each.low) for lift in spans.lift.values() for each in lift):
        drawn["lift"] = draw_lifts(spans, palette)
    if spans.regret:
        drawn["regret"] = draw_regrets(spans, palette)
    if any(trace.latency.values()):
        drawn["latency"] = draw_latencies(trace.latency, palette, report.latency_ms)
    if trace.freshness:
        drawn["freshness"] = draw_freshness(trace.freshness)
    if spans.log_loss:
        drawn["log_loss"] = draw_log_losses(spans, palette)
    if trace.rates:
        drawn["throughput"] = draw_throughput(trace.rates)
    return drawn


def draw_click_rates(spans: Timeline, rates: Mapping[str, float], palette: Mapping[str, str]) -> bytes:
    """Draw the click rate of each arm within each span, with 95% intervals, between random and oracle if known."""
    named = ", ".join(f"{arm} {percent(rate)}" for arm, rate in rates.items() if np.isfinite(rate))
    with picture(f"Click rate: {named}", "clicked of the shown items, over time, with 95% interval") as (axes, save):
        edges = np.array(spans.edges) / time_axis(axes, spans.edges[-1])
        middles = (edges[1:] + edges[:-1]) / 2
        labels = []
        for arm, intervals in spans.ctr.items():
            labels.append((arm, palette[arm], _band(axes, middles, intervals, palette[arm])))
        for level, label in ((spans.best, "best possible"), (spans.random, "random")):
            if np.isfinite(level).any():
                axes.plot(middles, level, color=QUIET, linewidth=1.4, linestyle=(0, (4, 3)))
                labels.append((label, QUIET, level[-1]))
        axes.set_ylim(0, _top(spans))
        label_ends(axes, middles[-1], labels)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        return save()


def draw_lifts(spans: Timeline, palette: Mapping[str, str]) -> bytes:
    """Draw the leader's lift over each other arm as it stood at each look, with its any-time interval."""
    ends = {other: intervals[-1] for other, intervals in spans.lift.items()}
    known = {other: end.value for other, end in ends.items() if np.isfinite(end.value)}
    named = ", ".join(f"{signed_percent(value)} over {other}" for other, value in known.items())
    subtitle = f"of all clicks so far, with the interval that holds at every look; above 0, {spans.leader} is ahead"
    with picture(f"Gain of {spans.leader}: {named}", subtitle) as (axes, save):
        looks = np.array(spans.edges[1:]) / time_axis(axes, spans.edges[-1])
        axes.axhline(0, color=QUIET, linewidth=1.2)
        labels = []
        for other, intervals in spans.lift.items():
            colour = palette[spans.leader] if len(spans.lift) == 1 else palette[other]
            labels.append((f"over {other}", colour, _band(axes, looks, intervals, colour)))
        axes.set_ylim(*_range(spans.lift.values()))
        label_ends(axes, looks[-1], labels)
        axes.yaxis.set_major_formatter(lambda value, _: "0" if abs(value) < 1e-9 else signed_percent(value))
        return save()


def draw_regrets(spans: Timeline, palette: Mapping[str, str]) -> bytes:
    """Draw the clicks that each arm has missed so far, a user: regret against the oracle, added up."""
    named = ", ".join(f"{arm} {missed[-1]:.1f} a user" for arm, missed in spans.regret.items())
    subtitle = "clicks that a perfect ranking would have had and the arm had not, added up; the flatter, the better"
    with picture(f"Missed clicks: {named}", subtitle, height=3.8) as (axes, save):
        edges = np.array(spans.edges) / time_axis(axes, spans.edges[-1])
        labels = []
        for arm, missed in spans.regret.items():
            axes.plot(edges, [0.0, *missed], color=palette[arm])
            labels.append((arm, palette[arm], missed[-1]))
        axes.set_ylim(bottom=0)
        label_ends(axes, edges[-1], labels)
        axes.set_ylabel("clicks a user")
        return save()


def draw_log_losses(spans: Timeline, palette: Mapping[str, str]) -> bytes:
    """Draw the log loss of the probabilities as served, within each span, above the least that it can be."""
    known = any(np.isfinite(floor).any() for floor in spans.log_loss_floor.values())
    subtitle = "of the probabilities as they were served" + (
        "; dashed: of the true probabilities of the same items, the least there can be" if known else ""
    )
    with picture("Log loss over time", subtitle, height=3.8) as (axes, save):
        edges = np.array(spans.edges) / time_axis(axes, spans.edges[-1])
        middles = (edges[1:] + edges[:-1]) / 2
        labels = []
        for arm, loss in spans.log_loss.items():
            axes.plot(middles, loss, color=palette[arm], marker="o", markersize=3.5)
            if floor := spans.log_loss_floor.get(arm):
                axes.plot(middles, floor, color=palette[arm], linewidth=1.4, linestyle=(0, (4, 3)))
            labels.append((arm, palette[arm], loss[-1]))
        label_ends(axes, middles[-1], labels)
        axes.set_ylabel("nats an item")
        return save()


def _band(axes: "Axes", at: Floats, intervals: Sequence[Interval], colour: str) -> float:
    """Draw a line within its interval; returns its last value."""
    values = np.clip(np.array(intervals, dtype=np.float64), -_MOST, _MOST)
    axes.fill_between(at, values[:, 1], values[:, 2], color=colour, alpha=0.16, linewidth=0)
    axes.plot(at, values[:, 0], color=colour, marker="o", markersize=3.5)
    return float(values[-1, 0])


def _top(spans: Timeline) -> float:
    """Return a limit above all rates and most intervals: those of few users are wide."""
    intervals = [each for rates in spans.ctr.values() for each in rates if np.isfinite(each.value)]
    levels = [level for level in (*spans.best, *spans.random) if np.isfinite(level)]
    highs = [each.high for each in intervals if np.isfinite(each.high)]
    most = float(np.quantile(highs, 0.9)) if highs else 0.0
    return 1.08 * max([1e-3, most, *levels, *(each.value for each in intervals)])


def _range(lifts: Iterable[list[Interval]]) -> tuple[float, float]:
    """Return limits around 0, the last interval and the later half of the line: first intervals are wide beyond use."""
    seen = [number for lift in lifts for number in (*lift[-1], *(look.value for look in lift[len(lift) // 2 :]))]
    known = np.clip([0.0, *(number for number in seen if np.isfinite(number))], -_MOST, _MOST)
    margin = max(0.05, (known.max() - known.min()) / 2)
    return known.min() - margin, known.max() + margin
