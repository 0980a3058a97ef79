"""`samstream demo` and `samstream simulate`: simulated users, a live view, and a report at the end."""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from stream.lag import Lag
from stream.report.data import DemoReport, DemoTrace
from stream.report.report import write_demo
from stream.report.summary import arm_result, spread, this_machine, verdict
from stream.report.words import demo_headline
from stream.settings import Settings, load
from stream.simulation.config import WorldConfig, with_changes
from stream.simulation.observer import Observer
from stream.simulation.traffic import Traffic
from stream.simulation.world import World
from stream.system import keep_logs, local_system
from stream.topics import Topics
from stream.viewer import Viewer

SLOTS = 10
_TRAINING_S = 60.0

DEMO: dict[str, Any] = {
    "topics": {"partitions": 4},
    "worker": {"attribution_window_s": 5.0, "lateness_s": 0.5, "idle_s": 2.0},
    "trainer": {"checkpoint_interval_s": 15.0},
    "arms": [{"name": "sam-1000", "preset": "sam"}, {"name": "din-50", "preset": "din-50"}],
}
"""What the demo prefers to the general defaults: short windows, and two arms that ask what length brings."""


def run_demo(arguments: argparse.Namespace) -> int:
    """Start a system on this machine, send simulated users through it, write the report; returns the exit status."""
    settings = load(arguments.config, overrides=arguments.set, defaults=DEMO)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="samstream-") as scratch:
        directory = Path(scratch)
        console.print(f"starting broker ({arguments.broker}), topics, {arguments.workers} worker(s) and trainer …")
        try:
            with local_system(
                settings, broker=arguments.broker, directory=directory, workers=arguments.workers
            ) as system:
                path = _simulate(arguments, system.settings, console, system.check)
        finally:
            keep_logs(directory, arguments.report)
    console.print(f"report: {path}")
    return 0


def run_simulation(arguments: argparse.Namespace) -> int:
    """Send simulated users through a system that runs already, write the report; returns the exit status."""
    settings = load(arguments.config, overrides=arguments.set)
    console = Console()
    path = _simulate(arguments, settings, console, lambda: None)
    console.print(f"report: {path}")
    return 0


def _simulate(arguments: argparse.Namespace, settings: Settings, console: Console, check: Callable[[], None]) -> Path:
    """Run the simulation against a system that `check` watches; returns the report's path."""
    config = with_changes(WorldConfig(users=arguments.users, history=arguments.history), arguments.world)
    start = time.time()
    world = World(config, seed=arguments.seed, start=round(1000 * start))
    traffic = Traffic(
        settings.kafka, Topics(settings.topics.prefix), world, rate=arguments.rate, slots=SLOTS, seed=arguments.seed
    )
    shares = {arm.name: arm.share for arm in settings.arms}
    observer = Observer(shares)
    lag = Lag(settings.kafka, settings.worker.group)
    topics = Topics(settings.topics.prefix)
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
        traffic.run(arguments.seconds, watch_traffic)
        complete = traffic.await_training(
            settings.worker.attribution_window_s + _TRAINING_S,
            lambda traffic: show("last windows close", traffic.elapsed),
        )
    if not complete:
        console.print(f"note: the trainer has not announced {traffic.untrained} of the shown items as learned")
    report, trace = _report(arguments, config, traffic, observer, shares)
    console.print(demo_headline(report), highlight=False, soft_wrap=True)
    return write_demo(arguments.report, report, trace)


def _report(
    arguments: argparse.Namespace,
    config: WorldConfig,
    traffic: Traffic,
    observer: Observer,
    shares: Mapping[str, float],
) -> tuple[DemoReport, DemoTrace]:
    tally, traces = traffic.tally, traffic.tally.traces()
    report = DemoReport(
        title="samstream demo",
        seconds=arguments.seconds,
        impressions=tally.impressions,
        scores=tally.answered,
        clicks=tally.clicks,
        behaviors=tally.behaviors,
        samples_trained=tally.trained,
        dead_letters=tally.dead_letters,
        latency_ms=spread([value for _, value in tally.latency]),
        freshness_s=spread([value for _, value in tally.freshness]),
        arms={name: arm_result(trace) for name, trace in traces.items()},
        verdict=verdict(traces, shares),
        machine=this_machine(),
        settings={
            "seed": arguments.seed,
            "impressions a second": arguments.rate,
            "users": config.users,
            "history": config.history,
            "candidates": config.candidates,
            "slots": SLOTS,
        },
    )
    return report, DemoTrace(arms=traces, latency=tally.latency, freshness=tally.freshness, rates=observer.rates)
