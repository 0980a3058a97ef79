"""`bench cost`: the CPU time that worker and trainer take for an impression, by step."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console

from stream.bench.harness.load import SLOTS, Population, loaded_system
from stream.bench.harness.process_cpu import cpu_seconds, cpu_seconds_by_thread_name
from stream.bench.harness.step_clock import STEPS, launcher, read_steps
from stream.local.system import System
from stream.report.findings import Findings, Target
from stream.report.plots.figure import INK, PALETTE, pictures

_RATE, _CLICKS = 40.0, 3
_ROUNDS, _SECONDS, _WARM_UP_S = 5, 12.0, 12.0
"""Windows close after 5.5 s, so after the warm-up samples come as fast as impressions."""
_MOST_MS = {"worker": 2.9, "trainer": 3.4}
"""Half of what each took when this was measured first (2 cores of an AMD EPYC with AVX-512, embedded broker)."""
_CLIENT, _STORE, _REST, _ALL = "librdkafka's threads", "RocksDB's threads", "all else", "all"
_THREADS = {_CLIENT: "rdk:", _STORE: "rocksdb:"}
"""Threads that are no step, and how their names begin."""


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds of a process so far: of its steps, of threads that are none, of `all` else, and of all together."""

    at: float
    spent: Mapping[str, float]

    @classmethod
    def of(cls, pid: int, steps: Mapping[str, float]) -> "Reading":
        """Read what a process has spent besides its steps."""
        threads = cpu_seconds_by_thread_name(pid)
        together = cpu_seconds(pid)
        apart = {
            part: sum(spent for name, spent in threads.items() if name.startswith(begin))
            for part, begin in _THREADS.items()
        }
        rest = together - sum(steps.values()) - sum(apart.values())
        return cls(time.time(), {**steps, **apart, _REST: rest, _ALL: together})


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Send requests at a steady rate, and read in each span of time what the processes have spent."""
    quick = arguments.quick
    population = Population(users=20, history=60, clicks=_CLICKS) if quick else Population(clicks=_CLICKS)
    rounds, seconds, warm_up = (1, 2.0, 1.0) if quick else (_ROUNDS, _SECONDS, _WARM_UP_S)
    readings: dict[str, list[Reading]] = {command: [] for command in STEPS}
    console.print(f"starting a system on {arguments.broker}, {population.users} users …")
    with (
        TemporaryDirectory(prefix="samstream-steps-") as steps,
        loaded_system(arguments.broker, population, launcher=launcher(Path(steps))) as (system, load),
    ):
        next_reading = time.time() + warm_up

        def check() -> None:
            nonlocal next_reading
            system.check()
            if time.time() >= next_reading and len(readings["worker"]) <= rounds:
                next_reading = time.time() + seconds
                _read(system, Path(steps), readings)

        # A second more: what comes late of the last span is still under load.
        result = load.run(_RATE, warm_up + rounds * seconds + 1.0, check)
        if len(readings["worker"]) <= rounds:  # where checks came late, the load was over before the last
            _read(system, Path(steps), readings)
    answered = [answer.received for answer in result.answers if answer.spent is not None]
    rows = [row for command, each in readings.items() for row in cost_rows(command, each, answered)]
    targets = [
        Target(f"{command}, an impression", _by_step(rows, command)[_ALL], "ms", most)
        for command, most in _MOST_MS.items()
    ]
    p50, p99 = np.percentile([answer.latency_ms for answer in result.answers], (50, 99))
    notes = [
        f"{_RATE:g} impressions a second (Poisson) of {population.candidates} candidates for users with"
        f" {population.history} behaviours; {SLOTS} shown, {_CLICKS} clicked, one after the other; the default arm",
        f"user and system time; medians of {rounds} span(s) of {seconds:g} s, with what a process does at rest",
        f"steps by the clocks of their threads, without the steps within them; {_REST!r}: the process less all others",
        f"answers took {p50:.0f} ms (p50), {p99:.0f} ms (p99); where they are late, several share a turn and cost less",
    ]
    return Findings({"results": rows}, _picture(rows), targets, notes)


def cost_rows(command: str, readings: Sequence[Reading], answered: Sequence[float]) -> list[dict[str, str | float]]:
    """Return a row for each step of a process: CPU ms an impression, the median, least and most of the spans.

    Args:
        command: whose readings these are.
        readings: at the borders of the spans.
        answered: when impressions were answered, seconds since the epoch.
    """
    times = np.array(answered)
    spans = [
        {
            step: 1000 * (spent - before.spent[step]) / max(1, int(((before.at < times) & (times <= after.at)).sum()))
            for step, spent in after.spent.items()
        }
        for before, after in pairwise(readings)
    ]
    return [
        {"process": command, "step": step, "CPU ms": float(np.median(taken)), "least": min(taken), "most": max(taken)}
        for step in readings[0].spent
        for taken in [[span[step] for span in spans]]
    ]


def _read(system: System, steps: Path, readings: Mapping[str, list[Reading]]) -> None:
    for command, process in (("worker", "worker-1"), ("trainer", "trainer")):
        readings[command].append(Reading.of(system.processes.pid(process), read_steps(steps, command)))


def _by_step(rows: Sequence[Mapping[str, str | float]], command: str) -> dict[str, float]:
    return {str(row["step"]): float(row["CPU ms"]) for row in rows if row["process"] == command}


def _picture(rows: Sequence[Mapping[str, str | float]]) -> Callable[[], bytes]:
    def draw() -> bytes:
        by_process = {command: _by_step(rows, command) for command in STEPS}
        parts = " and ".join(f"{found[_ALL]:.1f} ms of a {command}" for command, found in by_process.items())
        with pictures(2, f"An impression takes {parts}", "CPU milliseconds by step", height=4.8) as (axes, save):
            for each, colour, (command, found) in zip(axes, PALETTE, by_process.items(), strict=False):
                shown = [(step, spent) for step, spent in found.items() if step != _ALL]
                for place, (_, spent) in enumerate(shown):
                    each.barh(place, spent, color=colour, height=0.65)
                    each.text(spent, place, f"  {spent:.2f}", va="center", color=INK, fontsize=9)
                each.set_yticks(range(len(shown)), [step for step, _ in shown], fontsize=9)
                each.invert_yaxis()
                each.grid(visible=False)
                each.set_xlabel(command)
                each.margins(x=0.15)
            axes[0].figure.subplots_adjust(left=0.16, wspace=0.5)
            return save()

    return draw
