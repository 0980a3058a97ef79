"""`samstream replay`: a data set through the whole loop on this machine, judged progressively, with a report."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model import metrics
from stream.datasets import open_dataset
from stream.local.system import keep_logs, local_system
from stream.replay.driver import Replay
from stream.report.formatting import replay_headline
from stream.report.machine import replay_trace, this_machine
from stream.report.schema import ReplayArm, ReplayReport, ReplayTrace
from stream.report.writer import write_replay
from stream.runtime import signals as interrupts
from stream.settings import Settings, load
from stream.trainer.predictions import read_predictions

_WARM_UP = 0.4
"""Share of the impressions that comes before the judged ones."""

REPLAY: dict[str, Any] = {
    # Event time is the data's, however long ago, and leaps from visit to visit; a click has the time of its impression.
    "worker": {"attribution_window_s": 10.0, "allowed_lateness_s": 0.0, "idle_timeout_s": 2.0, "max_past_s": 1e11},
    "trainer": {"update_interval_s": 2.0, "checkpoint_interval_s": 60.0},
}
"""What a replay prefers to the general defaults."""


def run_replay(arguments: argparse.Namespace) -> int:
    """Replay a data set through a system on this machine and write the report; returns the exit status."""
    console = Console()
    console.print(f"reading {arguments.dataset} …")
    dataset = open_dataset(arguments.dataset, arguments.data, seed=arguments.seed)
    with tempfile.TemporaryDirectory(prefix="samstream-") as scratch:
        directory = Path(scratch)
        settings = _settings(arguments, directory / "predictions")
        console.print(f"starting broker ({arguments.broker}), topics, {arguments.workers} worker(s) and trainer …")
        try:
            with local_system(
                settings, broker=arguments.broker, directory=directory, workers=arguments.workers
            ) as system:
                replay = Replay(system, dataset, speed=arguments.speed, visits=arguments.visits)
                try:
                    seconds = _run(replay, console)
                finally:
                    replay.close()
        finally:
            keep_logs(directory, arguments.report)
        report, traces = _report(arguments, settings, replay, seconds, directory / "predictions")
    console.print(replay_headline(report), highlight=False, soft_wrap=True)
    for name, arm in report.arms.items():
        console.print(
            f"  {name}: AUC {arm.auc:.4f}, GAUC {arm.gauc:.4f}, NE {arm.ne:.4f}, log loss {arm.log_loss:.4f},"
            f" calibration {arm.calibration:.3f}, {arm.samples} samples",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"report: {write_replay(arguments.report, report, traces)}")
    return 0


def judged_from(times: Sequence[int]) -> int:
    """Return the event time from which on the last 60% of the impressions at `times` are judged.

    >>> judged_from([5, 4, 3, 2, 1])
    3
    """
    return sorted(times)[int(_WARM_UP * len(times))]


def _settings(arguments: argparse.Namespace, predictions: Path) -> Settings:
    arms = [{"name": name, "preset": name, "learn_from": "all"} for name in arguments.arms.split(",")]
    defaults = REPLAY | {
        "arms": arms,
        "seed": arguments.seed,
        "trainer": REPLAY["trainer"] | {"progressive_log": str(predictions)},
    }
    return load(arguments.config, overrides=arguments.set, defaults=defaults)


def _run(replay: Replay, console: Console) -> float:
    """Run with a progress bar; returns the seconds it took."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        totals = replay.totals
        behaviors = progress.add_task("behaviours", total=totals.behaviors)
        visits = progress.add_task("impressions", total=totals.visits)
        trained = progress.add_task("samples learned", total=totals.samples)

        def show(replay: Replay) -> None:
            interrupts.check()
            progress.update(behaviors, completed=replay.behaviors)
            progress.update(visits, completed=replay.visits)
            progress.update(trained, completed=replay.trained)

        seconds = replay.run(show)
        show(replay)
    return seconds


def _report(
    arguments: argparse.Namespace, settings: Settings, replay: Replay, seconds: float, directory: Path
) -> tuple[ReplayReport, dict[str, ReplayTrace]]:
    start = judged_from(replay.asked)
    arms, traces = {}, {}
    for arm in settings.models:
        rows = read_predictions(directory / f"{arm.name}.predictions")
        traces[arm.name] = replay_trace(rows["label"], rows["probability"])
        judged = rows[rows["ts"] >= start]
        labels, probabilities = judged["label"].astype(float), judged["probability"]
        arms[arm.name] = ReplayArm(
            samples=len(judged),
            positives=int(labels.sum()),
            auc=metrics.auc(labels, probabilities),
            gauc=metrics.gauc(labels, probabilities, judged["user"]),
            ne=metrics.normalised_entropy(labels, probabilities),
            log_loss=metrics.log_loss(labels, probabilities),
            calibration=metrics.calibration(labels, probabilities),
        )
    report = ReplayReport(
        title=f"samstream replay: {arguments.dataset}",
        dataset=arguments.dataset,
        seconds=seconds,
        behaviors=replay.behaviors,
        impressions=replay.visits,
        clicks=replay.clicks,
        judged="the last 60% of the impressions, each sample predicted before it was learned from",
        dead_letters=replay.dead_letters,
        arms=arms,
        machine=this_machine(),
        settings={
            "seed": arguments.seed,
            "arms": arguments.arms,
            "workers": arguments.workers,
            "broker": arguments.broker,
        },
    )
    return report, traces
