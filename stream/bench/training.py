"""`bench training`: a training step, the learner against the literal form with autograd; memory; table sizes."""

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from model.device import configure_torch
from model.embedding.initial import Initial
from model.embedding.learned import LearnedTable
from model.example import Example
from model.interest.base import Known
from model.interest.sam import SparseAttentiveMemory
from model.interest.sam_reference import literal_sam
from model.learner import Learner
from model.spec import preset
from stream.bench.harness.examples import example, spread_keys
from stream.bench.harness.timing import Summary, time_alternately, time_alternately_for
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, pictures

PRESET = "sam"
SHOWN = 10
"""Labelled items in a request."""
CLICKS = 5 / 8
"""Share of records with a single click, in the mixed batch: of 10 shown items 1.6 are clicked, one record each."""
_TIMES, _GROWTHS = 8.0, (2.0, 1.5)


@dataclass(frozen=True, slots=True)
class TrainingSizes:
    """Batch sizes, with seconds for each; sizes of tables, with the keys of one step."""

    requests: tuple[int, ...] = (8, 32, 128)
    length: int = 1000
    seconds: float = 30.0
    tables: tuple[int, ...] = (10_000, 100_000, 1_000_000, 4_000_000)
    keys: int = 32_000
    distinct: int = 8_000
    repeats: int = 100


QUICK = TrainingSizes((1, 4), 30, 0.05, (500, 2_000), 400, 100, 3)

Batches = list[list[Example]]


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Measure with one thread, the trainer's default."""
    sizes = QUICK if arguments.quick else TrainingSizes()
    batches = {f"{count} requests": partial(request_batches, count, sizes.length) for count in sizes.requests}
    batches[f"{sizes.requests[1]} records, mixed"] = partial(stream_batches, sizes.requests[1], sizes.length)
    # Memory that a figure leaves behind spoils the next one of its process; a quick run, to be seen working, may.
    shared = [list(batches)] if arguments.quick else [[name] for name in batches]
    console.print(f"memory, {2 * len(shared)} processes …")
    memory = {
        (name, side): peak
        for names in shared
        for side in ("literal", "learner")
        for name, peak in zip(names, _peaks_in_new_process([batches[name] for name in names], side), strict=True)
    }
    # Without huge pages, the literal form spends half of its time on page faults: malloc does not reuse its tensors.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    threads = torch.get_num_threads()
    configure_torch(threads=1)
    rows: list[dict[str, Any]] = []
    times: dict[str, float] = {}
    try:
        # First, as in a new process: what the literal form leaves behind has few huge pages for them.
        console.print("tables …")
        steps = {f"{size:,}": _table_step(size, sizes) for size in sizes.tables}
        tables = time_alternately(steps, repeats=sizes.repeats, warmups=10)
        del steps
        for name, draw in batches.items():
            console.print(f"{name} …")
            drawn = draw()
            samples = sum(len(each.items) for each in drawn[0])
            summaries = time_alternately_for(_sides(drawn), sizes.seconds)
            times[name] = summaries["literal"].median / summaries["learner"].median
            rows += [
                _row(f"step, {name}", side, summary, samples, memory[name, side]) for side, summary in summaries.items()
            ]
    finally:
        torch.set_num_threads(threads)
    rows += [_row(f"table of {size} rows", "learner", summary, None, None) for size, summary in tables.items()]
    targets = [
        Target(f"literal / learner, {name}", ratio, "times", _TIMES, "at least") for name, ratio in times.items()
    ]
    most = sizes.tables[-1]
    for least, limit in zip(sizes.tables[:-1], _GROWTHS, strict=False):
        growth = tables[f"{most:,}"].median / tables[f"{least:,}"].median
        targets.append(Target(f"table step, {most:,} rows / {least:,}", growth, "times", limit))
    notes = [
        f"preset {PRESET}, {sizes.length} behaviours, {SHOWN} items a request; one thread; both sides in turns",
        "peak MB: peak of the resident memory of a new process during three steps, less that before them",
        f"mixed: {CLICKS:.0%} of the records are a single click, the others {SHOWN - 2} items",
        f"table: `take` and `step` of {sizes.keys:,} keys, {sizes.distinct:,} distinct, 16 wide",
    ]
    return Findings({"results": rows}, lambda: _picture(rows, sizes, times), targets, notes)


def request_batches(count: int, length: int) -> Batches:
    """Draw four batches of `count` requests, with all items of a request in one record."""
    rng = np.random.default_rng(0)
    return [[example(rng, length, SHOWN, labelled=True) for _ in range(count)] for _ in range(4)]


def stream_batches(count: int, length: int) -> Batches:
    """Draw four batches of `count` records as in a stream: single clicks, and the other items of a request."""
    rng = np.random.default_rng(0)
    clicks = round(CLICKS * count)
    items = [1] * clicks + [SHOWN - 2] * (count - clicks)
    return [[example(rng, length, c, labelled=True) for c in rng.permutation(items)] for _ in range(4)]


def _sides(drawn: Batches) -> dict[str, Callable[[], object]]:
    literal, learner = (Learner(preset(PRESET)) for _ in range(2))
    theirs, ours = cycle(drawn), cycle(drawn)

    def literal_step() -> None:
        with patch.object(SparseAttentiveMemory, "forward", _literal):
            literal.learn(next(theirs))

    return {"literal": literal_step, "learner": lambda: learner.learn(next(ours))}


def _literal(
    model: SparseAttentiveMemory,
    keys: Tensor,
    mask: Tensor,
    targets: Tensor,
    match: Tensor | None = None,
    known: Known | None = None,
) -> Tensor:
    """Compute the literal form user by user, which is faster than all at once: that does not fit into caches.

    Each with its own candidates: padded ones, which cost the learner nothing, are left out here as well.
    """
    C = targets.shape[1]
    outputs = []
    for user, count in enumerate([C] * len(keys) if known is None else known.counts.tolist()):
        at, own = slice(user, user + 1), targets[user : user + 1, :count]
        bonus = None if match is None else match[at, :count]
        outputs.append(functional.pad(literal_sam(model, keys[at], mask[at], own, bonus), (0, 0, 0, C - count)))
    return torch.cat(outputs)


def _peaks_in_new_process(draws: Sequence[Callable[[], Batches]], side: str) -> list[float | None]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return list(pool.map(peak_memory, draws, repeat(side)))


def peak_memory(draw: Callable[[], Batches], side: str) -> float | None:
    """Return the MB by which three steps raise the peak of this process's resident memory; None outside Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    configure_torch(threads=1)
    drawn = draw()
    step = _sides(drawn)[side]
    _sides([[example(np.random.default_rng(1), 10, 1, labelled=True)]])[side]()  # loads what only the first step loads
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _kilobytes(status, "VmRSS")
    for _ in range(3):
        step()
    return (_kilobytes(status, "VmHWM") - before) * 1024 / 1e6


def _kilobytes(status: Path, name: str) -> int:
    [line] = [line for line in status.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


def _table_step(size: int, sizes: TrainingSizes) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    known = spread_keys(np.arange(1, size + 1))
    table = LearnedTable(16, initial=Initial(0, 0.05), max_rows=size)
    table.assign(known, torch.zeros(size, 16))
    gradient = torch.ones(1 + sizes.distinct, 16)
    draws = cycle([rng.choice(rng.choice(known, sizes.distinct, replace=False), sizes.keys) for _ in range(10)])

    def step() -> None:
        taken = table.take(next(draws))
        taken.vectors.grad = gradient[: len(taken.vectors)]
        table.step(taken, lr=0.1)

    return step


def _row(what: str, side: str, summary: Summary, samples: int | None, memory: float | None) -> dict[str, Any]:
    ms = summary.scaled(1000)
    return {
        "what": what,
        "side": side,
        "ms": ms.median,
        "quartiles ms": f"{ms.q25:.3g} to {ms.q75:.3g}",
        "samples/s": None if samples is None else samples / summary.median,
        "peak MB": memory,
    }


def _short(number: int) -> str:
    """Return a round number, shortened.

    >>> _short(500), _short(10_000), _short(4_000_000)
    ('500', '10k', '4M')
    """
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)


def _picture(rows: list[dict[str, Any]], sizes: TrainingSizes, times: dict[str, float]) -> bytes:
    main = f"{sizes.requests[1]} requests"
    title = f"For a step on {main}, the literal form takes {times[main]:.0f} times as long"
    subtitle = f"one thread, {sizes.length} behaviours, {SHOWN} items a request"
    at = {(row["what"], row["side"]): row for row in rows}
    from matplotlib.ticker import LogLocator, NullLocator

    with pictures(3, title, subtitle, height=4.2) as ((left, middle, right), save):
        for axes, column in ((left, "samples/s"), (middle, "peak MB")):
            for side, colour in (("literal", PALETTE[1]), ("learner", PALETTE[0])):
                y = [at[f"step, {count} requests", side][column] for count in sizes.requests]
                if None in y:
                    continue
                axes.plot(sizes.requests, y, color=colour, marker="o", markersize=4)
                beside = "right" if y[-1] > y[0] else "left"
                axes.annotate(side, (sizes.requests[1], y[1]), xytext=(0, 9), textcoords="offset points",
                              color=colour, ha=beside, fontweight="bold")  # fmt: skip
            axes.set_xlabel("requests of a step")
        ms = [at[f"table of {size:,} rows", "learner"]["ms"] for size in sizes.tables]
        right.plot(sizes.tables, ms, color=PALETTE[2], marker="o", markersize=4)
        right.set_xlabel("rows of a table")
        right.set_ylim(0, 1.5 * max(ms))
        for axes, text in ((left, "samples a second"), (middle, "peak MB of a step"), (right, "ms for a table's step")):
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.set_title(text, fontsize=10.5, pad=4, fontweight="normal")
        for axes in (left, middle):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_xticks(sizes.requests, [f"{count}" for count in sizes.requests])
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.margins(y=0.2)
        right.set_xticks(sizes.tables, list(map(_short, sizes.tables)))
        return save()
