"""The pictures of a report, each a function from series to PNG bytes. matplotlib is imported when one is drawn."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stream.report.canvas import label_ends, picture, pictures
from stream.report.data import ArmTrace, DemoTrace, RatePoint, ReplayTrace
from stream.report.style import INK, PALETTE, QUIET, colours
from stream.report.summary import columns
from stream.statistics import clustered_rate, percentiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

_MIN_PER_WINDOW = 120
"""Impressions of an arm that make a window worth drawing."""


def demo_plots(trace: DemoTrace) -> dict[str, bytes]:
    """Draw every picture of a demo for which there are data: file name without ending → PNG."""
    drawn = {"ctr": click_rates(trace.arms), "log_loss": log_losses(trace.arms)}
    if trace.latency:
        drawn["latency"] = latencies(trace.latency)
    if trace.freshness:
        drawn["freshness"] = freshness(trace.freshness)
    if trace.rates:
        drawn["throughput"] = throughput(trace.rates)
    return drawn


def replay_plots(traces: Mapping[str, ReplayTrace]) -> dict[str, bytes]:
    """Draw the pictures of a replay: file name without ending → PNG."""
    return {"auc": progressive(traces, "auc"), "ne": progressive(traces, "ne")}


def click_rates(arms: Mapping[str, ArmTrace]) -> bytes:
    """Draw the click rate of each arm in windows of time, with 95% intervals over users, between random and oracle."""
    edges = _edges(arms)
    middles = (edges[1:] + edges[:-1]) / 2
    totals = {arm: clustered_rate(*columns(trace)).value for arm, trace in arms.items()}
    named = ", ".join(f"{arm} {100 * rate:.1f}%" for arm, rate in totals.items() if np.isfinite(rate))
    subtitle = "share of the shown items that were clicked, over time, with 95% interval; the title is over all of it"
    with picture(f"Click rate: {named or 'nothing shown'}", subtitle) as (axes, save):
        labels = []
        for arm, colour in colours(arms).items():
            at, data = np.asarray(arms[arm].at), columns(arms[arm])
            inside = [(at >= low) & (at < high) for low, high in pairwise(edges)]
            rates = np.array([clustered_rate(*(column[window] for column in data)) for window in inside])
            axes.fill_between(middles, rates[:, 1], rates[:, 2], color=colour, alpha=0.16, linewidth=0)
            axes.plot(middles, rates[:, 0], color=colour, marker="o", markersize=3.5)
            labels.append((arm, colour, rates[-1, 0]))
        for name, label in (("best", "best possible"), ("random", "random")):
            level = _window_means(arms, name, edges)
            if np.isfinite(level).any():
                axes.plot(middles, level, color=QUIET, linewidth=1.4, linestyle=(0, (4, 3)))
                labels.append((label, QUIET, level[-1]))
        axes.set_ylim(bottom=0)
        label_ends(axes, middles[-1], labels)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set_xlabel("seconds since the first impression")
        return save()


def log_losses(arms: Mapping[str, ArmTrace]) -> bytes:
    """Draw the log loss of the probabilities as served, in windows of time, above the least that it can be."""
    edges = _edges(arms)
    middles = (edges[1:] + edges[:-1]) / 2
    known = any(trace.floor for trace in arms.values())
    subtitle = "of the probabilities as they were served" + (
        "; dashed: of the true probabilities of the same items, the least there can be" if known else ""
    )
    with picture("Log loss over time", subtitle) as (axes, save):
        labels = []
        for arm, colour in colours(arms).items():
            loss = _window_means({arm: arms[arm]}, "losses", edges)
            axes.plot(middles, loss, color=colour, marker="o", markersize=3.5)
            floor = _window_means({arm: arms[arm]}, "floor", edges)
            axes.plot(middles, floor, color=colour, linewidth=1.4, linestyle=(0, (4, 3)))
            labels.append((arm, colour, loss[-1]))
        label_ends(axes, middles[-1], labels)
        axes.set_xlabel("seconds since the first impression")
        axes.set_ylabel("nats an item")
        return save()


def latencies(points: list[tuple[float, float]]) -> bytes:
    """Draw how long answers took: their distribution, and median and 99th percentile over time."""
    at, ms = np.array(points).T
    p50, p99 = percentiles(ms, (50, 99))
    title = f"Latency: half within {p50:.0f} ms, 99% within {p99:.0f} ms"
    with pictures(2, title, "from the impression produced to its score received") as ((left, right), save):
        _distribution(left, ms, PALETTE[0], "ms", (p50, p99))
        edges = np.linspace(0, max(at.max(), 1e-9), _windows(len(at)) + 1)
        windows = [ms[(at >= low) & (at <= high)] for low, high in pairwise(edges)]
        over_time = np.array([percentiles(window, (50, 99)) for window in windows])
        middles = (edges[1:] + edges[:-1]) / 2
        right.plot(middles, over_time[:, 0], color=PALETTE[0])
        right.plot(middles, over_time[:, 1], color=PALETTE[1])
        label_ends(right, middles[-1], [("p50", PALETTE[0], over_time[-1, 0]), ("p99", PALETTE[1], over_time[-1, 1])])
        right.set_ylim(bottom=0)
        right.set_xlabel("seconds since the first impression")
        right.set_ylabel("ms")
        return save()


def freshness(points: list[tuple[float, float]]) -> bytes:
    """Draw how long it took until a click had changed the model that answered."""
    seconds = np.array(points)[:, 1]
    p50, p99 = percentiles(seconds, (50, 99))
    title = f"Freshness: half of the clicks count after {p50:.1f} s, 99% after {p99:.1f} s"
    subtitle = "from the click produced to the first answer by a model that has learned from it"
    with picture(title, subtitle, height=3.6) as (axes, save):
        _distribution(axes, seconds, PALETTE[2], "s", (p50, p99))
        return save()


def throughput(points: list[RatePoint]) -> bytes:
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


def progressive(traces: Mapping[str, ReplayTrace], metric: str) -> bytes:
    """Draw the `auc` or `ne` of each arm within windows of the stream."""
    words = {
        "auc": (
            "AUC while learning",
            "each sample predicted before it was learned from; higher is better, 0.5 is random",
        ),
        "ne": (
            "Normalised entropy while learning",
            "log loss over that of always saying the mean; lower is better, 1 knows nothing",
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


def _edges(arms: Mapping[str, ArmTrace]) -> Floats:
    """Edges of equal windows of time that hold enough impressions of every arm to say something."""
    end = max((max(trace.at, default=0.0) for trace in arms.values()), default=0.0)
    fewest = min((len(trace.at) for trace in arms.values()), default=0)
    edges: Floats = np.linspace(0, end + 1e-6, _windows(fewest) + 1)
    return edges


def _windows(count: int) -> int:
    return int(np.clip(count // _MIN_PER_WINDOW, 1, 24))


def _window_means(arms: Mapping[str, ArmTrace], name: str, edges: Floats) -> Floats:
    """In each window, the sum of a column over the items shown; NaN where there is nothing."""
    total, shown = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for trace in arms.values():
        if values := getattr(trace, name):
            total += np.histogram(trace.at, edges, weights=values)[0]
            shown += np.histogram(trace.at, edges, weights=trace.shown)[0]
    means: Floats = np.divide(total, shown, out=np.full_like(total, np.nan), where=shown > 0)
    return means


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
