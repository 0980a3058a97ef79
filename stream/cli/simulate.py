"""`samstream demo`, `experiment run` and `simulate`: simulated users, a live view, and a report at the end."""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console

from stream.errors import ExperimentError
from stream.experiment.plan import Experiment, ExperimentPlan, read
from stream.kafka.offsets import GroupLag
from stream.local.system import keep_logs, local_system
from stream.report.sentences import headline
from stream.report.writer import write_experiment
from stream.schema.topics import Topics
from stream.settings import Settings, load
from stream.simulation.config import WorldConfig, with_changes
from stream.simulation.observer import Observer
from stream.simulation.report import simulation_report, sums_of_traces, time_before
from stream.simulation.terminal_view import Viewer
from stream.simulation.traffic import Traffic
from stream.simulation.world import World

SLOTS = 10
_TRAINING_S = 60.0

LOCAL: dict[str, Any] = {
    "topics": {"partitions": 4},
    "worker": {"attribution_window_s": 5.0, "allowed_lateness_s": 0.5, "idle_timeout_s": 2.0},
    "trainer": {"checkpoint_interval_s": 15.0},
    "monitor": {"window_s": 5.0},
}
"""What a run of a minute or two prefers to the general defaults: short windows."""


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the experiment that comes with the package; returns the exit status."""
    with as_file(files("stream.cli").joinpath("demo.toml")) as file:
        return _run(arguments, file)


def run_experiment(arguments: argparse.Namespace) -> int:
    """Run the experiment of `arguments.file`; returns the exit status."""
    return _run(arguments, arguments.file)


def run_simulation(arguments: argparse.Namespace) -> int:
    """Send simulated users through a system that runs already, write the report; returns the exit status."""
    settings = load(arguments.config, overrides=arguments.set)
    console = Console()
    path = _simulate(arguments, settings, Experiment.of_settings(settings), console, lambda: None)
    console.print(f"report: {path}")
    return 0


def _settings(arguments: argparse.Namespace, experiment: ExperimentPlan, file: Path) -> Settings:
    """Return the settings with which an experiment runs on this machine.

    Raises:
        ExperimentError: when the settings state other arms or another salt than the experiment's file.
        SettingsError: as `settings.load`.
    """
    stated = experiment.settings()
    state = {"length": max(experiment.longest, Settings().state.length)}
    settings = load(arguments.config, overrides=arguments.set, defaults=LOCAL | stated | {"state": state})
    if settings.salt != experiment.salt or settings.arms != tuple(arm.settings() for arm in experiment.arms):
        raise ExperimentError(
            f"{file} states arms and salt, and --config, --set or the environment other ones: state them in one place"
        )
    return settings


def _run(arguments: argparse.Namespace, file: Path) -> int:
    """Start a system on this machine, send simulated users through it, write the report."""
    experiment = read(file)
    settings = _settings(arguments, experiment, file)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="samstream-") as scratch:
        directory = Path(scratch)
        console.print(f"starting broker ({arguments.broker}), topics, {arguments.workers} worker(s) and trainer …")
        try:
            with local_system(
                settings,
                broker=arguments.broker,
                directory=directory,
                workers=arguments.workers,
                monitor=not arguments.no_monitor,
            ) as system:
                if web := system.settings.monitor.web:
                    console.print(f"live page: http://{web} (in a few seconds)", highlight=False)
                path = _simulate(arguments, system.settings, Experiment.of(experiment), console, system.check)
                for name in system.processes.lost():
                    console.print(f"note: the {name} ended before the run; see {arguments.report}/logs/{name}.log")
        finally:
            keep_logs(directory, arguments.report)
    console.print(f"report: {path}")
    return 0


def _simulate(
    arguments: argparse.Namespace,
    settings: Settings,
    experiment: Experiment,
    console: Console,
    check: Callable[[], None],
) -> Path:
    """Run the simulation against a system that `check` watches; returns the report's path."""
    config = with_changes(WorldConfig(users=arguments.users, history=arguments.history), arguments.world)
    world = World(config, seed=arguments.seed, start=round(1000 * time.time()))
    topics = Topics(settings.topics.prefix)
    traffic = Traffic(settings.kafka, topics, world, rate=arguments.rate, slots=SLOTS, seed=arguments.seed)
    before = time_before(world, arguments.pre_impressions, SLOTS)
    observer = Observer(lambda traces: experiment.verdict(sums_of_traces(traces, before)))
    lag = GroupLag(settings.kafka, settings.worker.group)
    began = time.time()

    def show(phase: str, elapsed: float, total: float = 0.0) -> None:
        check()
        viewer.show(observer.snapshot(traffic, phase, elapsed, total))

    def watch_traffic(traffic: Traffic) -> None:
        show("traffic", traffic.elapsed, arguments.seconds)
        observer.note_rate(traffic.elapsed)

    with Viewer(console, plain=arguments.plain) as viewer, closing(lag), traffic:
        traffic.warm_up(
            lambda: lag.of(topics.behaviors, settings.topics.partitions),
            lambda _: show("warming up: histories", time.time() - began),
        )
        started = time.time()
        traffic.run(arguments.seconds, watch_traffic)
        complete = traffic.await_training(
            settings.worker.attribution_window_s + _TRAINING_S,
            lambda traffic: show("last windows close", traffic.elapsed),
        )
    if not complete:
        console.print(f"note: the trainer has not announced {traffic.untrained} of the shown items as learned")
    said = {
        "seed": arguments.seed,
        "impressions a second": arguments.rate,
        "users": config.users,
        "history": config.history,
        "candidates": config.candidates,
        "slots": SLOTS,
        "impressions before": arguments.pre_impressions,
    }
    report, trace = simulation_report(
        experiment,
        traffic.tally,
        observer.rates,
        began=started,
        seconds=arguments.seconds,
        before=before,
        settings=said,
    )
    for line in (headline(report), *(found.sentence for found in report.interleaving)):
        console.print(line, highlight=False, soft_wrap=True)
    return write_experiment(arguments.report, report, trace)
