"""`samstream demo`, `simulate` and `experiment run`: simulated users, a live view, and a report at the end."""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console

from stream.cli.experiment_report import read_traffic
from stream.cli.options import (
    Commands,
    add_local_system_options,
    add_settings_command,
    add_simulation_options,
    load_settings,
)
from stream.errors import ExperimentError
from stream.kafka.offsets import GroupLag
from stream.kafka.topic_admin import verify
from stream.local.system import keep_logs, local_system
from stream.registry.formats import open_formats
from stream.runtime.closing import Resources
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.simulation.config import EARLY_LABELS, SHORT_WINDOWS

if TYPE_CHECKING:
    from stream.experiment.guardrails.results import GuardrailResult
    from stream.experiment.plan import Experiment, ExperimentPlan

SLOTS = 10
_TRAINING_S = 60.0

LOCAL: dict[str, Any] = {
    "topics": {"partitions": 4},
    "worker": {**SHORT_WINDOWS, **EARLY_LABELS, "idle_timeout_s": 2.0},
    "trainer": {"checkpoint_interval_s": 15.0},
    "monitor": {"window_s": SHORT_WINDOWS["attribution_window_s"]},
    "gateway": {"deadline_s": 0.4},  # below `label_wait_s`: what is not shown is withdrawn before it is learned
}
"""Defaults of a run of a minute or two: short windows, early labels."""


def add_parser(commands: Commands) -> None:
    """Add `demo` and `simulate`."""
    text = "a whole system on this machine, with simulated traffic and a report"
    demo = add_settings_command(commands, "demo", run_demo, text)
    _add_local_options(demo)
    text = "presets to compare, with as many users each, in place of sam-1000,din-50: as in sam,dare,twin-v2"
    demo.add_argument("--arms", type=lambda names: tuple(names.split(",")), default=(), metavar="NAMES", help=text)
    text = "simulated users against a system that is already running"
    simulate = add_settings_command(commands, "simulate", run_simulation, text)
    add_simulation_options(simulate, seconds=60.0, pre_impressions=0)


def add_experiment_parser(actions: Commands) -> argparse.ArgumentParser:
    """Add `experiment run`, without the experiment's file."""
    text = "run it on this machine, with simulated users and a report"
    parser = add_settings_command(actions, "run", run_experiment, text)
    _add_local_options(parser)
    return parser


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the experiment that comes with the package; returns the exit status."""
    from stream.experiment.plan import read

    with as_file(files("stream.cli").joinpath("demo.toml")) as file:
        experiment = read(file)
        return _run_locally(arguments, demo_of(arguments.arms, experiment) if arguments.arms else experiment, file)


def demo_of(arms: Sequence[str], experiment: "ExperimentPlan") -> "ExperimentPlan":
    """Return the experiment with a preset as each arm, which counts at the half-lives of its first arm.

    Raises:
        SpecError: when there is no such preset.
        ExperimentError: for fewer than two arms, or one twice.
    """
    from model.spec import preset
    from stream.experiment.plan import PlannedArm

    statistics = experiment.arms[0].model["statistics"]
    if len(set(arms)) < max(2, len(arms)):
        raise ExperimentError(f"--arms {','.join(arms)}: at least two presets, each of them once")
    planned = (
        PlannedArm(name=name, preset=name, model={"statistics": statistics} if preset(name).statistics else {})
        for name in arms
    )
    return msgspec.structs.replace(experiment, name="models", salt="models-1", arms=tuple(planned))


def run_experiment(arguments: argparse.Namespace) -> int:
    """Run the experiment of `arguments.file`; returns the exit status."""
    from stream.experiment.plan import read

    return _run_locally(arguments, read(arguments.file), arguments.file)


def run_simulation(arguments: argparse.Namespace) -> int:
    """Send simulated users through a system that is already running, and write the report; returns the exit status."""
    from stream.experiment.plan import Experiment

    settings = load_settings(arguments)
    console = Console()
    path = _simulate(
        arguments, settings, Experiment.of_settings(settings.at(1000 * time.time())), console, lambda: None
    )
    console.print(f"report: {path}")
    return 0


def _add_local_options(parser: argparse.ArgumentParser) -> None:
    add_local_system_options(parser)
    parser.add_argument("--no-monitor", action="store_true", help="without the monitor and its live page")
    text = "without the gateway and the shop's page, on which you play a user"
    parser.add_argument("--no-gateway", action="store_true", help=text)
    add_simulation_options(parser, seconds=110.0, pre_impressions=4000)


def _settings(arguments: argparse.Namespace, experiment: "ExperimentPlan", file: Path) -> Settings:
    """Return the settings of an experiment that runs on this machine.

    Raises:
        ExperimentError: when --config, --set or the environment has other arms or another salt than the file.
        SettingsError: as `load_settings`.
    """
    state = {"length": max(experiment.longest, Settings().state.length)}
    settings = load_settings(arguments, defaults=LOCAL | experiment.settings() | {"state": state})
    if (
        settings.salt != experiment.salt
        or settings.arms != tuple(arm.settings() for arm in experiment.arms)
        or settings.ramp != experiment.ramp
        or settings.bandit != experiment.bandit
    ):
        raise ExperimentError(
            f"{file} sets the arms and the salt, and --config, --set or the environment others: state them in one place"
        )
    return settings


def _run_locally(arguments: argparse.Namespace, experiment: "ExperimentPlan", file: Path) -> int:
    """Start a system on this machine, send simulated users through it, write the report."""
    from stream.experiment.plan import Experiment

    settings = _settings(arguments, experiment, file)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="samstream-") as scratch:
        directory = Path(scratch)
        shop = _open_shop(arguments, directory / "shop", console)
        console.print(f"starting broker ({arguments.broker}), topics, {arguments.workers} worker(s) and trainer …")
        try:
            with local_system(
                settings,
                broker=arguments.broker,
                directory=directory,
                workers=arguments.workers,
                monitor=not arguments.no_monitor,
                pages=shop,
            ) as system:
                if web := system.settings.monitor.web:
                    console.print(f"live page: http://{web} (in a few seconds)", highlight=False)
                if shop is not None:
                    address = f"http://{system.settings.gateway.address}"
                    console.print(f"shop: {address}/pages/, gateway: {address}/docs", highlight=False)
                path = _simulate(
                    arguments,
                    system.settings,
                    Experiment.of(experiment.at(1000 * time.time())),
                    console,
                    system.check,
                    shop,
                )
                for name in system.processes.ended_optional():
                    console.print(f"note: the {name} ended before the run did; see {arguments.report}/logs/{name}.log")
        finally:
            keep_logs(directory, arguments.report)
    console.print(f"report: {path}")
    return 0


def _open_shop(arguments: argparse.Namespace, folder: Path, console: Console) -> Path | None:
    """Return the folder of the shop's page; None without a gateway."""
    from stream.simulation.shop.files import write_page

    if arguments.no_gateway:
        return None
    if find_spec("litestar") is None:
        console.print("no shop and no gateway: pip install 'samstream[gateway]'", highlight=False)
        return None
    write_page(folder)
    return folder


def _simulate(
    arguments: argparse.Namespace,
    settings: Settings,
    experiment: "Experiment",
    console: Console,
    check: Callable[[], None],
    shop: Path | None = None,
) -> Path:
    """Run the simulation; returns the report's path.

    Args:
        arguments: the command line.
        settings: of the system that runs.
        experiment: what the arms are compared by.
        console: for what people read.
        check: raises when the system has failed.
        shop: folder of the shop's page, which gets the items of the world.
    """
    from stream.experiment.shares_in_force import Explorers
    from stream.report.sentences import broken_guardrail_lines, headline
    from stream.report.writer import write_experiment
    from stream.simulation.config import WorldConfig, with_changes
    from stream.simulation.observer import Observer
    from stream.simulation.report import simulate_pre_period, simulation_report, sums_of_traces
    from stream.simulation.shop.files import write_catalogue
    from stream.simulation.terminal_view import Viewer
    from stream.simulation.traffic import Traffic
    from stream.simulation.world import World

    config = with_changes(WorldConfig(users=arguments.users, history=arguments.history), arguments.world)
    world = World(config, seed=arguments.seed, start=round(1000 * time.time()))
    if shop is not None:
        write_catalogue(shop, world, slots=SLOTS)
    topics = Topics(settings.topics.prefix)
    traffic = Traffic(
        settings.kafka,
        topics,
        world,
        rate=arguments.rate,
        slots=SLOTS,
        seed=arguments.seed,
        await_outcomes=settings.worker.labels == "early",
    )
    before = simulate_pre_period(world, arguments.pre_impressions, SLOTS)
    explorers = Explorers(salt=settings.salt, share=settings.bandit.explore) if settings.bandit.on else None
    observer = Observer(lambda traces: experiment.verdict(sums_of_traces(traces, before, explorers)))
    partitions = verify(settings.kafka, topics, configured=settings.topics.partitions)
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
            lambda: lag.of(topics.behaviors, partitions),
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
    facts = {
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
        traffic.totals,
        observer.rates,
        began=started,
        seconds=arguments.seconds,
        before=before,
        settings=facts,
        guardrails=_guardrail_results(experiment, settings, topics, since=round(1000 * started)),
        users=explorers,
    )
    for line in (
        headline(report),
        *broken_guardrail_lines(report),
        *(result.sentence for result in report.interleaving),
    ):
        console.print(line, highlight=False, soft_wrap=True)
    return write_experiment(arguments.report, report, trace)


def _guardrail_results(
    experiment: "Experiment", settings: Settings, topics: Topics, *, since: int
) -> "list[GuardrailResult]":
    """Return what the guardrails say of the traffic since then (ms), as the topics have it."""
    from stream.experiment.ledger import Ledger
    from stream.experiment.serving_cost import ServingCosts
    from stream.experiment.shares_in_force import Explorers

    explorers = Explorers(salt=settings.salt, share=settings.bandit.explore)
    ledger, answers = Ledger(since=since, users=explorers), ServingCosts()
    counts = experiment.guardrail_counts(
        ledger, answers, salt=settings.salt, users=explorers, now=round(1000 * time.time())
    )
    if counts is None:
        return []
    with Resources() as resources:
        read_traffic(
            settings.kafka,
            topics,
            ledger,
            answers,
            begin=since,
            guardrails=counts,
            formats=open_formats(settings, topics, resources),
            users=explorers,
        )
    return experiment.guardrail_results(counts, ledger.sums)
