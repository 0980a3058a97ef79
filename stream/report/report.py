"""Writing a report directory: report.json, series.json, report.html and the pictures as PNG."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from stream.report.data import ArmResult, DemoReport, DemoTrace, ReplayArm, ReplayReport, ReplayTrace
from stream.report.html import Cell, Figure, Page, Row, Tile, render_page
from stream.report.plots import demo_plots, replay_plots
from stream.report.style import colours
from stream.report.words import (
    demo_headline,
    machine_facts,
    number,
    percent,
    replay_headline,
    verdict_lines,
)

_ALT = {
    "ctr": "Click rate of each arm over time",
    "log_loss": "Log loss of each arm over time",
    "latency": "Distribution of the latency, and its percentiles over time",
    "freshness": "Distribution of the freshness",
    "throughput": "Records a second over time",
    "auc": "AUC of each arm over the stream",
    "ne": "Normalised entropy of each arm over the stream",
}


def write_demo(directory: Path, report: DemoReport, trace: DemoTrace) -> Path:
    """Write the report of a demo or simulation; returns the path of its page. Files already there are replaced."""
    return _write(directory, report, trace, demo_plots(trace), _demo_page(report))


def write_replay(directory: Path, report: ReplayReport, traces: Mapping[str, ReplayTrace]) -> Path:
    """Write the report of a replay; returns the path of its page. Files already there are replaced."""
    return _write(directory, report, traces, replay_plots(traces), _replay_page(report))


def _write(
    directory: Path,
    report: DemoReport | ReplayReport,
    series: DemoTrace | Mapping[str, ReplayTrace],
    pictures: Mapping[str, bytes],
    page: Page,
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    (directory / "series.json").write_bytes(msgspec.json.encode(series) + b"\n")
    for name, png in pictures.items():
        (directory / f"{name}.png").write_bytes(png)
        page.figures.append(Figure(png, _ALT[name]))
    path = directory / "report.html"
    path.write_text(render_page(page), encoding="utf-8")
    return path


def _demo_page(report: DemoReport) -> Page:
    palette = colours(report.arms)
    return Page(
        title=report.title,
        headline=demo_headline(report),
        lead=(
            f"{number(report.impressions)} impressions in {report.seconds:.0f} seconds, from simulated users. Each "
            "arm ranked the candidates for its own users, learned from their clicks and from nothing else, and took "
            "what it had learned into use while it answered."
        ),
        tiles=[
            Tile(number(report.impressions), "impressions"),
            Tile(number(report.clicks), "clicks"),
            Tile(f"{number(report.latency_ms.p50)} / {number(report.latency_ms.p99)} ms", "latency p50 / p99"),
            Tile(f"{number(report.freshness_s.p50, 1)} / {number(report.freshness_s.p99, 1)} s", "freshness p50 / p99"),
            Tile(number(report.samples_trained), "samples learned"),
            Tile(number(report.dead_letters), "dead letters"),
        ],
        columns=["arm", "impressions", "shown", "clicks", "click rate", "best possible", "random", "log loss", "model"],
        rows=[Row(name, palette[name], _demo_cells(arm)) for name, arm in report.arms.items()],
        verdict=verdict_lines(report.verdict),
        notes=[
            "This is a simulation: the users, their interests and their clicks come from a made-up world with known "
            "click probabilities. It shows that the system works and what it can exploit, not what your users will do.",
            "The verdict may be looked at any time and acted on at any look: among arms that are alike it names a "
            "winner in at most 5 of 100 experiments, and its intervals hold at all looks at once.",
            "Click rate: clicked items over shown items. Intervals are taken over users, because one user's clicks are "
            "not independent; those in the table and in the picture hold for one look.",
            "Best possible and random: click rates to expect on the same requests of a ranking by the true "
            "probabilities, and of a random one.",
            "Log loss of two arms is not comparable as it stands: the arm that shows better items shows fewer obvious "
            "misses. Compare each with the least that it can be, the log loss of the true probabilities of its items.",
            "Latency: from an impression produced to its score received. Freshness: from a click produced to the first "
            "answer by a model that has learned from it.",
        ],
        facts=_facts(report),
    )


def _demo_cells(arm: ArmResult) -> list[Cell]:
    interval = f"{percent(arm.ctr_low)} to {percent(arm.ctr_high)}"
    return [
        Cell(number(arm.impressions)),
        Cell(number(arm.shown)),
        Cell(number(arm.clicks)),
        Cell(percent(arm.ctr), interval),
        Cell(percent(arm.ctr_best)),
        Cell(percent(arm.ctr_random)),
        Cell(number(arm.log_loss, 3), "" if math.isnan(arm.log_loss_floor) else f"least {arm.log_loss_floor:.3f}"),
        Cell(f"{arm.epoch}.{arm.version}"),
    ]


def _replay_page(report: ReplayReport) -> Page:
    palette = colours(report.arms)
    return Page(
        title=report.title,
        headline=replay_headline(report),
        lead=(
            f"{number(report.behaviors)} behaviours and {number(report.impressions)} impressions of {report.dataset} "
            f"went through the whole loop in {report.seconds:.0f} seconds: impression, score, click, sample, update. "
            "Every arm was judged on the same samples, each before it was learned from."
        ),
        tiles=[
            Tile(number(report.behaviors), "behaviours"),
            Tile(number(report.impressions), "impressions"),
            Tile(number(report.clicks), "clicks"),
            Tile(f"{number(report.seconds)} s", "from first to last record"),
            Tile(number(report.dead_letters), "dead letters"),
        ],
        columns=["arm", "samples", "positives", "AUC", "GAUC", "NE", "log loss", "calibration"],
        rows=[Row(name, palette[name], _replay_cells(arm)) for name, arm in report.arms.items()],
        notes=[
            f"Judged: {report.judged}.",
            "AUC: how often a clicked item is ranked above one that was not; 0.5 is random. GAUC: the same within "
            "users, weighted by their samples.",
            "NE, normalised entropy: log loss over that of always saying the mean click rate; below 1, something is "
            "known.",
            "Calibration: predicted over observed clicks; 1 is right.",
        ],
        facts=_facts(report),
    )


def _replay_cells(arm: ReplayArm) -> list[Cell]:
    metrics = (arm.auc, arm.gauc, arm.ne, arm.log_loss, arm.calibration)
    return [Cell(number(arm.samples)), Cell(number(arm.positives)), *(Cell(number(metric, 3)) for metric in metrics)]


def _facts(report: DemoReport | ReplayReport) -> list[tuple[str, str]]:
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [*machine_facts(report.machine), *([("Settings", settings)] if settings else []), ("Written", written)]
