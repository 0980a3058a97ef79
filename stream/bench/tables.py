"""`bench tables`: memory of a trainer and of a worker that follows it, on a stream through which many keys pass."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from model.device import configure_torch
from model.example import Example
from model.learner import Learner
from model.scorer import Scorer
from model.serialization.update import decode, encode
from model.spec import ModelSpec, OptimSpec, preset
from state.behavior import BEHAVIOR
from stream.bench.harness.examples import CATEGORIES, NOW, spread_keys
from stream.errors import StreamError
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, pictures
from stream.schema.units import DAY_MS

_ARM = "mean"
_REQUESTS = 16
_SHOWN = 10
_POINTS = 100
"""Updates of a stream, after each of which memory is measured."""
_GROWTH = 1.25
_EARLY = _POINTS // 5


@dataclass(frozen=True, slots=True)
class TableSizes:
    """How many items pass in all, how many are there at any time, how often each is seen on average, and in what."""

    items: int = 10_000_000
    living: int = 100_000
    seen: int = 4
    length: int = 1000

    @property
    def steps(self) -> int:
        """Steps between two updates."""
        return max(1, self.items * self.seen // (_REQUESTS * self.length * _POINTS))

    @property
    def rules(self) -> Mapping[str, OptimSpec]:
        """What is compared: an item lives for a day, so nobody reads what has expired."""
        day_s = DAY_MS / 1000
        return {
            "never forgets": OptimSpec(expire_after_s=0.0, max_rows=2 * self.items),
            "expires after a day": OptimSpec(expire_after_s=day_s),
            "full, the coldest go": OptimSpec(expire_after_s=0.0, max_rows=2 * self.living),
        }


@dataclass(frozen=True, slots=True)
class Course:
    """One side over a stream: its rows and the MB of its process after each update, and the MB before all."""

    rows: list[int]
    megabytes: list[float]
    before: float
    counts: dict[str, int]

    @property
    def grown(self) -> list[float]:
        """MB after each update, less those before all."""
        return [each - self.before for each in self.megabytes]


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Send the stream through a trainer and a worker, each a process of its own, under each rule in turn.

    Raises:
        StreamError: when the worker has other rows than the trainer, or memory cannot be measured here.
    """
    sizes = TableSizes(20_000, 500, length=60) if arguments.quick else TableSizes()
    rows: list[dict[str, Any]] = []
    courses: dict[str, tuple[Course, Course]] = {}
    for rule, optim in sizes.rules.items():
        began = time.perf_counter()
        trainer, worker = courses[rule] = _stream(optim, sizes, console, rule)
        if trainer.rows[-1] != worker.rows[-1]:
            raise StreamError(f"{rule}: the trainer has {trainer.rows[-1]} rows and the worker {worker.rows[-1]}")
        rows.append(
            {
                "rule": rule,
                "most rows": max(trainer.rows),
                "trainer, MB": max(trainer.grown),
                "worker, MB": max(worker.grown),
                **{event: trainer.counts.get(event, 0) for event in ("admitted", "expired", "evicted")},
                "seconds": time.perf_counter() - began,
            }
        )
    _, expires, *_ = courses
    targets = [
        Target(
            f"memory of the {side}, most of all / most of the first {_EARLY}%, {expires}",
            max(course.grown) / max(course.grown[:_EARLY]),
            "times",
            _GROWTH,
        )
        for side, course in zip(("trainer", "worker"), courses[expires], strict=True)
    ]
    notes = [
        f"{sizes.items:,} items, of which {sizes.living:,} live at any time, each for a day and seen {sizes.seen} times"
        f" on average; histories of {sizes.length}, steps of {_REQUESTS} requests, an update every {sizes.steps} steps",
        "MB: resident memory of the process, at its most after an update, less that before the first step",
        "the worker decodes and applies the trainer's updates; at the end both have the same rows",
    ]
    return Findings({"results": rows}, lambda: _picture(courses, sizes), targets, notes)


def _stream(optim: OptimSpec, sizes: TableSizes, console: Console, rule: str) -> tuple[Course, Course]:
    """Return how it went for a trainer of these settings, and for the worker that follows it."""
    # Forked from a process that has imported everything and done nothing.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    updates, sent = context.Pipe(duplex=False)
    ours, theirs = zip(*(context.Pipe(duplex=False) for _ in range(2)), strict=True)
    sides = (
        context.Process(target=_train, args=(optim, sizes, sent, theirs[0]), daemon=True),
        context.Process(target=_follow, args=(sizes, updates, theirs[1]), daemon=True),
    )
    for side in sides:
        side.start()
    for end in (updates, sent, *theirs):
        end.close()
    try:
        for _ in track(range(_POINTS), rule, console=console):
            ours[1].recv()
        trainer, worker = (end.recv() for end in ours)
    except EOFError:
        raise StreamError(f"{rule}: a process has died, perhaps for want of memory") from None
    finally:
        for side in sides:
            side.kill()
    return trainer, worker


def _train(optim: OptimSpec, sizes: TableSizes, updates: Connection, result: Connection) -> None:
    configure_torch(threads=1)
    learner, rng = Learner(_spec(sizes), optim), np.random.default_rng(0)
    learner.begin_epoch(1)
    updates.send_bytes(encode(learner.base(_ARM)))
    course = Course([], [], _megabytes(), {})
    days = sizes.items / sizes.living
    for point in range(_POINTS):
        for step in range(sizes.steps):
            passed = (point + step / sizes.steps) / _POINTS
            first = 1 + round(passed * (sizes.items - sizes.living))
            now = NOW + round(passed * days * DAY_MS)
            learner.learn([_request(rng, sizes, first, now) for _ in range(_REQUESTS)])
        updates.send_bytes(encode(learner.delta(_ARM)))
        course.rows.append(learner.rows["item"])
        course.megabytes.append(_megabytes())
    course.counts.update(learner.key_counts["item"])
    result.send(course)


def _follow(sizes: TableSizes, updates: Connection, result: Connection) -> None:
    configure_torch(threads=1)
    scorer = Scorer(_spec(sizes))
    scorer.apply(decode(updates.recv_bytes()))
    course = Course([], [], _megabytes(), {})
    for _ in range(_POINTS):
        scorer.apply(decode(updates.recv_bytes()))
        course.rows.append(scorer.rows["item"])
        course.megabytes.append(_megabytes())
        result.send(None)
    result.send(course)


def _spec(sizes: TableSizes) -> ModelSpec:
    return msgspec.structs.replace(preset(_ARM), statistics=(), hidden=(16,), length=sizes.length)


def _request(rng: np.random.Generator, sizes: TableSizes, first: int, now: int) -> Example:
    """Draw a labelled request whose history and candidates are of the items that live now."""
    taken, offered = (first + rng.integers(0, sizes.living, size) for size in (sizes.length, _SHOWN))
    sequence = np.zeros(sizes.length, BEHAVIOR)
    sequence["item"] = spread_keys(taken)
    sequence["category"] = 1 + taken % CATEGORIES
    sequence["ts"] = now
    return Example(
        sequence=sequence,
        ts=now,
        items=spread_keys(offered),
        categories=(1 + offered % CATEGORIES).astype(np.uint32),
        labels=(rng.random(_SHOWN) < 0.2).astype(np.float32),
    )


def _megabytes() -> float:
    """Return the resident memory of this process."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise StreamError("memory is measured on Linux alone: run this benchmark there")
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024 / 1e6


def _picture(courses: Mapping[str, tuple[Course, Course]], sizes: TableSizes) -> bytes:
    never, expires, *_ = courses
    fewer = max(courses[never][0].rows) / max(courses[expires][0].rows)
    title = f"Tables that forget have {fewer:.0f} times fewer rows, however many items pass"
    subtitle = f"{sizes.items:,} items pass, of which {sizes.living:,} live at any time; MB above an empty process"
    passed = [sizes.items * (point + 1) / _POINTS / 1e6 for point in range(_POINTS)]
    with pictures(2, title, subtitle, height=4.4) as ((left, right), save):
        for axes, place, side in ((left, 0, "trainer"), (right, 1, "worker")):
            for (rule, pair), colour in zip(courses.items(), PALETTE, strict=False):
                axes.plot(passed, pair[place].grown, color=colour, label=rule)
            axes.set_title(f"{side}, MB", fontsize=10.5, pad=4, fontweight="normal")
            axes.set_xlabel("million items that have passed")
            axes.set_ylim(0)
        left.legend(frameon=False, loc="upper left", fontsize=9.5)
        return save()
