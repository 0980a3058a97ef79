"""`bench soak`: what grows while a system works: memory, descriptors, threads, disk, updates, lag and latency."""

import argparse
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console

from stream.bench.harness.load import Population, TimedAnswer, loaded_system
from stream.bench.harness.soak_watch import Job, Reading, Restart, Restarts, Watch
from stream.bench.harness.trend import slope_an_hour
from stream.local.ports import LOOPBACK, free_port
from stream.report.findings import Findings, Rows, Target
from stream.report.plots.figure import PALETTE, QUIET, pictures

RATE = 20.0
"""Requests a second."""
_SLICE_S = 30.0
"""Latency is told of each so many seconds."""
_READINGS_S = 10.0
_WARM_UP = 1 / 6
"""Share of the time that the last restarted process has to fill its caches, before anything must be flat."""
_DEDUP = 20_000
"""Samples that the trainer remembers: so many come within the first minutes, and it then forgets as many."""
_WRITE_BUFFER_MB = 34.0
"""RocksDB's log grows by so much before it is emptied: a shorter part of that cycle is no growth."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured over time.

    Attributes:
        name: what.
        unit: of its values.
        tolerance: by how much it may grow in an hour; None for what is not samstream's.
        relative: whether the tolerance is in per cent of the median, or in the unit.
    """

    name: str
    unit: str
    tolerance: float | None
    relative: bool = True


_PANELS: dict[str, tuple[Measure, ...]] = {
    "memory, MB": tuple(
        Measure(f"memory of the {job}", "MB", tolerance)
        for job, tolerance in (("worker", 10.0), ("trainer", 10.0), ("broker", None))
    ),
    "latency of half a minute, ms": (
        Measure("p50", "ms", 5.0, relative=False),
        Measure("p99", "ms", 15.0, relative=False),
    ),
    "file descriptors": tuple(
        Measure(f"descriptors of the {job}", "", tolerance)
        for job, tolerance in (("worker", 5.0), ("trainer", 5.0), ("broker", None))
    ),
    "threads": tuple(
        Measure(f"threads of the {job}", "", tolerance)
        for job, tolerance in (("worker", 5.0), ("trainer", 5.0), ("broker", None))
    ),
    "disk, MB": tuple(
        Measure(f"disk of the {job}", "MB", _WRITE_BUFFER_MB, relative=False) for job in ("worker", "trainer")
    ),
    "disk of the broker, MB": (Measure("disk of the broker", "MB", None),),
    "records that wait in Kafka": tuple(
        Measure(f"lag of the {job}", "records", 5 * RATE, relative=False) for job in ("worker", "trainer")
    ),
    "size of an update, kB": (Measure("update", "kB", 10.0),),
}


@dataclass(frozen=True, slots=True)
class Course:
    """How a run went: (n,) seconds since its start, and (n,) values, by measure; when processes were restarted."""

    series: dict[str, tuple[Floats, Floats]]
    restarts: Sequence[Restart]
    steady_from: float
    seconds: float

    def steady(self, name: str) -> tuple[Floats, Floats]:
        """Return seconds and values of a measure from when it must be flat on."""
        seconds, values = self.series[name]
        chosen = seconds >= self.steady_from
        return seconds[chosen], values[chosen]


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Send requests and clicks at a steady rate, restart worker and trainer twice each, and watch."""
    seconds = 40.0 if arguments.quick else 60 * arguments.minutes
    population = Population(users=20, history=60) if arguments.quick else Population(history=1400)
    jobs = [
        Job(command, process, f"{LOOPBACK}:{free_port()}")
        for command, process in (("worker", "worker-1"), ("trainer", "trainer"))
    ]
    worker, trainer = jobs
    planned = [
        Restart(0.1 * seconds, worker, signal.SIGKILL),
        Restart(0.15 * seconds, trainer, signal.SIGTERM),
        Restart(0.2 * seconds, worker, signal.SIGKILL),
        Restart(0.25 * seconds, trainer, signal.SIGKILL),
    ]
    console.print(f"starting a system on {arguments.broker}, {population.users} users …")
    with loaded_system(
        arguments.broker,
        population,
        # A killed worker's successor gets its partitions at once.
        kafka={"group.instance.id": "soak"},
        topics={"partitions": 1},
        worker={"metrics": worker.metrics},
        trainer={"metrics": trainer.metrics, "dedup_window": _DEDUP},
    ) as (system, load):
        console.print(f"{RATE:g} requests a second for {seconds / 60:.3g} minutes …")
        with (
            Restarts(system, planned) as restarts,
            Watch(system, jobs, interval_s=seconds / 40 if arguments.quick else _READINGS_S) as watch,
        ):
            result = load.run(RATE, seconds, restarts.check)
    began = min(answer.due for answer in result.answers)
    course = Course(
        readings_by_measure(watch.readings, began) | latency(result.answers, began),
        planned,
        planned[-1].seconds + _WARM_UP * seconds,
        seconds,
    )
    notes = [
        f"{RATE:g} requests a second (Poisson), each with 3 behaviours and the clicks on a tenth of what is shown, for"
        f" {seconds / 60:.3g} minutes on {arguments.broker}; {population.users} users whose histories are full,"
        f" {population.candidates} candidates, one partition; the trainer remembers {_DEDUP:,} samples",
        "restarts: " + ", ".join(f"{each.job.command} {_how(each)} at {each.seconds / 60:.3g} min" for each in planned),
        f"growth: Theil and Sen's slope from {course.steady_from / 60:.3g} min on; memory is resident memory; an update"
        " is a delta; what is the broker's has no target, since it keeps what it is sent",
        f"unanswered: {result.unanswered} of {len(result.answers)}",
    ]
    rows, targets = judge(course)
    return Findings({"results": rows}, _picture(course), targets, notes)


def readings_by_measure(readings: Sequence[Reading], began: float) -> dict[str, tuple[Floats, Floats]]:
    """Return readings as seconds since `began` and values, by measure."""
    seconds = np.array([each.at - began for each in readings])
    return {name: (seconds, np.array([each.values[name] for each in readings])) for name in readings[0].values}


def latency(answers: Sequence[TimedAnswer], began: float) -> dict[str, tuple[Floats, Floats]]:
    """Return p50 and p99 (ms) of the answers whose requests were due in each half minute since `began`."""
    due = np.array([answer.due - began for answer in answers])
    taken = np.array([answer.latency_ms for answer in answers])
    slices = (due // _SLICE_S).astype(int)
    used = np.unique(slices)
    middles = (used + 0.5) * _SLICE_S
    return {
        f"p{percent}": (middles, np.array([np.percentile(taken[slices == each], percent) for each in used]))
        for percent in (50, 99)
    }


def judge(course: Course) -> tuple[Rows, list[Target]]:
    """Return a row for each measure, and a target for each that must not grow."""
    rows: Rows = []
    targets = []
    for measure in (each for panel in _PANELS.values() for each in panel):
        seconds, values = course.steady(measure.name)
        known = values[np.isfinite(values)]
        slope = slope_an_hour(seconds, values)
        median = float(np.median(known)) if len(known) else None
        unit = "%" if measure.relative else measure.unit
        grown = 100 * slope / median if measure.relative and slope is not None and median else slope
        rows.append(
            {
                "what": measure.name,
                "unit": measure.unit,
                "median": median,
                "least": float(known.min()) if len(known) else None,
                "most": float(known.max()) if len(known) else None,
                "grows in an hour": slope,
            }
        )
        if measure.tolerance is not None:
            targets.append(Target(f"{measure.name}, growth in an hour", grown, unit, measure.tolerance))
    return rows, targets


def _how(restart: Restart) -> str:
    return "killed (-9)" if restart.signal == signal.SIGKILL else "asked to end"


def _picture(course: Course) -> Callable[[], bytes]:
    def draw() -> bytes:
        _, targets = judge(course)
        grown = [target.name.removesuffix(", growth in an hour") for target in targets if not target.met]
        title = f"After {course.seconds / 60:.3g} minutes, what grows: {', '.join(grown) or 'nothing'}"
        subtitle = "by minutes since the start; dashed: a process is restarted; shaded: where nothing may grow"
        with pictures(2, title, subtitle, height=11.5, rows=4) as (axes, save):
            for each, (head, measures) in zip(axes, _PANELS.items(), strict=True):
                for measure, colour in zip(measures, PALETTE, strict=False):
                    seconds, values = course.series[measure.name]
                    each.plot(seconds / 60, values, color=colour, lw=1.5, label=measure.name.rpartition(" of the ")[2])
                for restart in course.restarts:
                    each.axvline(restart.seconds / 60, color=QUIET, lw=0.8, ls=(0, (4, 3)))
                each.axvspan(course.steady_from / 60, course.seconds / 60, color=QUIET, alpha=0.07, lw=0)
                each.set_title(head, fontsize=10.5, pad=5, fontweight="normal")
                each.set_xlim(0, course.seconds / 60)
                if head.startswith("latency"):
                    each.set_yscale("log")
                    each.yaxis.set_major_formatter("{x:g}")
                else:
                    if head.startswith("records"):
                        each.set_yscale("symlog", linthresh=10)
                        each.yaxis.set_major_formatter("{x:g}")
                    each.set_ylim(0)
                if len(measures) > 1:
                    each.legend(
                        frameon=False, loc="lower right", bbox_to_anchor=(1.02, 0.97), fontsize=9, ncols=3,
                        handlelength=1.2, columnspacing=1.2,
                    )  # fmt: skip
            for each in axes[-2:]:
                each.set_xlabel("minutes")
            return save()

    return draw
