"""The pictures of a report, each a function from series to PNG bytes. matplotlib is imported when one is drawn."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stream.experiment.statistics.intervals import percentiles
from stream.report.plots.figure import INK, PALETTE, QUIET, colours, label_ends, picture, pictures, time_axis
from stream.report.schema import Percentiles, RatePoint, ReplayTrace, TimedValues

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

_MIN_PER_WINDOW = 120
"""Answers of an arm that make a window worth drawing."""


def replay_plots(traces: Mapping[str, ReplayTrace]) -> dict[str, bytes]:
    """Draw the pictures of a replay: file name without ending → PNG."""
    return {"auc": draw_progressive(traces, "auc"), "ne": draw_progressive(traces, "ne")}


def draw_latencies(timed: Mapping[str, TimedValues], palette: Mapping[str, str], overall: Percentiles) -> bytes:
    """Draw how long each arm's answers took: their distribution, and median and 99th percentile over time.

    Args:
        timed: arm → (s since the start, ms) of each answer, or of a fair part of them.
        palette: arm → colour.
        overall: of all answers, for the title.
    """
    title = f"Latency: half within {overall.p50:.0f} ms, 99% within {overall.p99:.0f} ms"
    columns = {arm: np.array(points).T for arm, points in timed.items() if points}
    limit = 1.25 * max(percentiles(ms, (99,))[0] for _, ms in columns.values())
    end = max(at.max() for at, _ in columns.values())
    with pictures(2, title, "left: how often an answer took how long; right: over time") as ((left, right), save):
        labels = []
        for arm, (at, ms) in columns.items():
            weights = np.full(len(ms), 1 / len(ms))
            left.hist(
                ms,
                bins=40,
                range=(0, limit),
                weights=weights,
                color=palette[arm],
                histtype="step",
                linewidth=1.8,
                label=arm,
            )
            edges = np.linspace(0, max(end, 1e-9), _windows(len(at)) + 1)
            inside = [ms[(at >= low) & (at <= high)] for low, high in pairwise(edges)]
            p50, p99 = np.array([percentiles(window, (50, 99)) for window in inside]).T
            middles = (edges[1:] + edges[:-1]) / 2 / time_axis(right, end)
            right.plot(middles, p99, color=palette[arm])
            right.plot(middles, p50, color=palette[arm], linewidth=1.4, linestyle=(0, (4, 3)))
            labels += [("p99", palette[arm], p99[-1]), ("p50", palette[arm], p50[-1])]
        left.legend(frameon=False, loc="upper right")
        left.set_xlim(0, limit)
        left.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        left.set_xlabel("ms")
        right.set_ylim(bottom=0)
        label_ends(right, middles[-1], labels)
        right.set_ylabel("ms")
        return save()


def draw_freshness(points: list[tuple[float, float]]) -> bytes:
    """Draw how long it took until a click had changed the model that answered."""
    seconds = np.array(points)[:, 1]
    p50, p99 = percentiles(seconds, (50, 99))
    title = f"Freshness: half of the clicks count after {p50:.1f} s, 99% after {p99:.1f} s"
    subtitle = "from the click produced to the first answer by a model that has learned from it"
    with picture(title, subtitle, height=3.6) as (axes, save):
        _distribution(axes, seconds, PALETTE[2], "s", (p50, p99))
        return save()


def draw_throughput(points: list[RatePoint]) -> bytes:
    """Draw events in, scores out and samples learned, a second."""
    at = [point.at for point in points]
    series = {
        "events in": [point.events for point in points],
        "scores out": [point.scores for point in points],
        "samples learned": [point.samples for point in points],
    }
    with picture("Throughput", "records a second", height=3.8) as (axes, save):
        for (_, values), colour in zip(series.items(), PALETTE, strict=False):
            axes.plot(at, values, color=colour, linewidth=1.8)
        ends = [(name, colour, values[-1]) for (name, values), colour in zip(series.items(), PALETTE, strict=False)]
        label_ends(axes, at[-1], ends)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds since the first impression")
        return save()


def draw_progressive(traces: Mapping[str, ReplayTrace], metric: str) -> bytes:
    """Draw the `auc` or `ne` of each arm within windows of the stream."""
    words = {
        "auc": (
            "AUC while learning",
            "each sample predicted before it was learned from; higher is better, 0.5 is random",
        ),
        "ne": (
            "Normalised entropy while learning",
            "log loss over that of always predicting the mean; lower is better, 1 is no better than that",
        ),
    }
    with picture(*words[metric]) as (axes, save):
        labels = []
        for arm, colour in colours(traces).items():
            samples, values = traces[arm].samples, getattr(traces[arm], metric)
            axes.plot(samples, values, color=colour, marker="o", markersize=3)
            if samples:
                labels.append((arm, colour, values[-1]))
        ends = [trace.samples[-1] for trace in traces.values() if trace.samples]
        label_ends(axes, max(ends, default=1), labels)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k" if value >= 1000 else f"{value:.0f}")
        axes.set_xlabel("samples learned")
        return save()


def _windows(count: int) -> int:
    return int(np.clip(count // _MIN_PER_WINDOW, 1, 24))


def _distribution(axes: "Axes", values: Floats, colour: str, unit: str, marks: tuple[float, float]) -> None:
    """A histogram up to a little beyond the 99th percentile; what lies beyond is counted in words."""
    limit = max(marks[1] * 1.25, 1e-9)
    axes.hist(values[values <= limit], bins=40, range=(0, limit), color=colour, alpha=0.85)
    top = axes.get_ylim()[1] * 1.12
    for name, mark in zip(("p50", "p99"), marks, strict=True):
        axes.axvline(mark, color=INK, linewidth=1.1, linestyle=(0, (3, 2)), ymax=0.9)
        axes.text(mark, top * 0.92, f"{name}  {mark:.3g} {unit}", ha="center", va="bottom", fontsize=10, color=INK)
    axes.set_ylim(0, top)
    axes.set_xlim(0, limit)
    if beyond := int((values > limit).sum()):
        axes.text(1, 0.6, f"{beyond} beyond", transform=axes.transAxes, ha="right", fontsize=9, color=QUIET)
    axes.set_xlabel(unit)
