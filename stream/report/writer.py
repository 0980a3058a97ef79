"""Writing a report directory: report.json, series.json, report.html and the pictures as PNG."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from stream.errors import ReportError
from stream.report.pages.experiment import experiment_page
from stream.report.pages.page import Figure, Page, render_page
from stream.report.pages.replay import replay_page
from stream.report.plots.common import replay_plots
from stream.report.plots.experiment import experiment_plots
from stream.report.schema import ExperimentReport, ReplayReport, ReplayTrace, Trace
from stream.report.sentences import machine_facts

_ALT = {
    "ctr": "Click rate of each arm over time",
    "lift": "Lift of the leading arm over time, with its any-time interval",
    "regret": "Clicks that each arm missed, added up over time",
    "log_loss": "Log loss of each arm over time",
    "latency": "Distribution of each arm's latency, and its percentiles over time",
    "freshness": "Distribution of the freshness",
    "throughput": "Records a second over time",
    "auc": "AUC of each arm over the stream",
    "ne": "Normalised entropy of each arm over the stream",
}

R = TypeVar("R", ExperimentReport, ReplayReport)


def write_experiment(directory: Path, report: ExperimentReport, trace: Trace) -> Path:
    """Write the report of an experiment; returns the path of its page. Files already there are replaced.

    Raises:
        ReportError: when the directory cannot be written.
    """
    return _write(directory, report, trace, experiment_plots(report, trace), experiment_page)


def write_replay(directory: Path, report: ReplayReport, traces: Mapping[str, ReplayTrace]) -> Path:
    """Write the report of a replay; returns the path of its page. Files already there are replaced.

    Raises:
        ReportError: when the directory cannot be written.
    """
    return _write(directory, report, traces, replay_plots(traces), replay_page)


def _write(
    directory: Path,
    report: R,
    series: Trace | Mapping[str, ReplayTrace],
    pictures: Mapping[str, bytes],
    page_of: Callable[[R, Mapping[str, Figure]], Page],
) -> Path:
    page = page_of(report, {name: Figure(png, _ALT[name]) for name, png in pictures.items()})
    page.facts.extend(_facts(report))
    path = directory / "report.html"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        (directory / "series.json").write_bytes(msgspec.json.encode(series) + b"\n")
        for name in _ALT:
            if name in pictures:
                (directory / f"{name}.png").write_bytes(pictures[name])
            else:
                (directory / f"{name}.png").unlink(missing_ok=True)  # of an earlier report that knew more
        path.write_text(render_page(page), encoding="utf-8")
    except OSError as error:
        raise ReportError(
            f"the report cannot be written to {directory}: {error}. Make room there, or give another directory with"
            " --report."
        ) from None
    return path


def _facts(report: ExperimentReport | ReplayReport) -> list[tuple[str, str]]:
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [*machine_facts(report.machine), *([("Settings", settings)] if settings else []), ("Written", written)]
