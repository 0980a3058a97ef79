"""`samstream replay`: a data set through a whole system on this machine, with a progressive validation as a report."""

import argparse
import tempfile
from pathlib import Path
from typing import Any, get_args

import msgspec
from rich.console import Console

from stream.cli.options import (
    Commands,
    add_local_system_options,
    add_report_option,
    add_settings_command,
    load_settings,
    positive_int,
)
from stream.cli.progress import counting
from stream.datasets import NAMES, open_dataset
from stream.datasets.base import Dataset, advised_features
from stream.datasets.candidates import Negatives
from stream.errors import SettingsError
from stream.local.system import keep_logs, local_system
from stream.replay.driver import Replay
from stream.runtime import signals
from stream.settings import Settings

REPLAY: dict[str, Any] = {
    # Event time is the data's, however long ago, and jumps from visit to visit; a click has the time of its impression.
    "worker": {"attribution_window_s": 10.0, "allowed_lateness_s": 0.0, "idle_timeout_s": 2.0, "max_past_s": 1e11},
    # The trainer predicts each sample. Updates are most of what a replay writes, and here nothing compacts them.
    "trainer": {"update_interval_s": 10.0, "checkpoint_interval_s": 300.0},
}
"""Defaults of a replay that differ from the general ones."""
_TOLD = ("seed", "arms", "workers", "broker", "negatives", "features")
"""Options that the report tells."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "stream a data set of real users through a whole system on this machine (progressive validation)"
    parser = add_settings_command(commands, "replay", run, text)
    parser.add_argument("dataset", choices=NAMES, help="which data set")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with its files")
    parser.add_argument("--arms", default="sam,din,counts", help="presets to compare (default %(default)s)")
    add_report_option(parser)
    add_local_system_options(parser)
    text = "seconds of event time in a second (default: as fast as it goes)"
    parser.add_argument("--speed", type=float, help=text)
    parser.add_argument("--visits", type=positive_int, metavar="N", help="stop after N visits")
    text = "how negatives are drawn for data without: by popularity so far, of the last 14 days, of the same category"
    parser.add_argument("--negatives", choices=get_args(Negatives), default="popular", help=text)
    text = "whether features of the data set are defined (default: those that help); settings can define more"
    parser.add_argument("--features", action=argparse.BooleanOptionalAction, default=True, help=text)
    text = "chooses the visits that are asked, and the initial parameters"
    parser.add_argument("--seed", type=int, default=0, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Replay a data set through a system on this machine, and write the report; returns the exit status."""
    from stream.replay.report import replay_report
    from stream.report.sentences import replay_headline
    from stream.report.writer import write_replay
    from stream.trainer.predictions import predictions_path

    console = Console()
    console.print(f"reading {arguments.dataset} …")
    dataset = open_dataset(arguments.dataset, arguments.data, seed=arguments.seed, negatives=arguments.negatives)
    with tempfile.TemporaryDirectory(prefix="samstream-") as scratch:
        directory = Path(scratch)
        predictions = directory / "predictions"
        settings = replay_settings(arguments, predictions, dataset)
        console.print(f"starting broker ({arguments.broker}), topics, {arguments.workers} worker(s) and trainer …")
        try:
            with (
                local_system(
                    settings, broker=arguments.broker, directory=directory, workers=arguments.workers
                ) as system,
                Replay(system, dataset, speed=arguments.speed, visits=arguments.visits) as replay,
            ):
                seconds = _run_with_progress(replay, console)
        finally:
            keep_logs(directory, arguments.report)
        report, traces = replay_report(
            replay.counts,
            {arm.name: predictions_path(settings, arm.name) for arm in settings.models},
            dataset=arguments.dataset,
            seconds=seconds,
            settings={name: getattr(arguments, name) for name in _TOLD},
        )
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


def replay_settings(arguments: argparse.Namespace, predictions: Path, dataset: Dataset) -> Settings:
    """Return the settings of a replay.

    Args:
        arguments: the parsed command line.
        predictions: folder of the log of predictions.
        dataset: the data; of its features, those are defined that are advised, and those that the user defines.

    Raises:
        SettingsError: as `load_settings`, for early labels, and when all events would be refused.
    """
    arms = [{"name": name, "preset": name, "learn_from": "all"} for name in arguments.arms.split(",")]
    trainer = REPLAY["trainer"] | {"progressive_log": str(predictions)}
    defaults = REPLAY | {"arms": arms, "seed": arguments.seed, "trainer": trainer}
    if arguments.features:
        defaults |= {"features": msgspec.to_builtins(advised_features(dataset))}
    settings = load_settings(arguments, defaults=defaults)
    if settings.worker.labels != "window":
        raise SettingsError("a replay judges each prediction by its final label: it needs worker.labels=window")
    unknown = sorted(dataset.features.keys() - settings.features.keys())
    if unknown and settings.worker.unknown_features == "refuse":
        raise SettingsError(
            f"the events say {', '.join(unknown)}: define these in [features], or set worker.unknown_features=ignore"
        )
    return settings


def _run_with_progress(replay: Replay, console: Console) -> float:
    """Run the replay; returns the seconds it took."""
    with counting(console) as progress:
        totals = replay.totals
        behaviors = progress.add_task("behaviours", total=totals.behaviors)
        visits = progress.add_task("impressions", total=totals.visits)
        trained = progress.add_task("samples learned", total=totals.samples)

        def show(replay: Replay) -> None:
            signals.raise_if_interrupted()
            progress.update(behaviors, completed=replay.counts.behaviors)
            progress.update(visits, completed=replay.counts.visits)
            progress.update(trained, completed=replay.counts.trained)

        seconds = replay.run(show)
        show(replay)
    return seconds
