"""`bench sync`: the cost of a model update from trainer to worker, and the worker's pause to apply it."""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from model.device import configure_torch
from model.embedding.keys import Keys
from model.learner import Learner
from model.predict import table_dims
from model.scorer import Scorer
from model.serialization.parts import Assembler, split
from model.serialization.update import Update
from model.spec import preset
from stream.bench.harness.examples import spread_keys
from stream.bench.harness.timing import Summary
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, picture
from stream.schema.topics import RECORD_BYTES

T = TypeVar("T")

_ARM = "sam"
_PAUSE_MS = 5.0
_FULL = (100, 1_000, 10_000, 100_000)
_QUICK = (100, 1_000)
_CATEGORIES = 1_000


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Measure updates of increasing numbers of touched item rows, on a table with twice as many rows."""
    configure_torch(threads=1)
    sizes = _QUICK if arguments.quick else _FULL
    repeats = 5 if arguments.quick else 40
    updates = _Updates(2 * sizes[-1])
    rows, pauses, fresh = [], {}, {}
    for size in sizes:
        console.print(f"{size:,} touched rows …")
        steps = {step: Summary.of(taken).scaled(1000) for step, taken in updates.measure(size, repeats).items()}
        pauses[size] = steps["swap"]
        swaps, waits = updates.measure_new(size, max(3, repeats // 4))
        fresh[size] = swaps.scaled(1000)
        update = updates.delta(size)
        parts = split(update, RECORD_BYTES)
        rows.append(
            {
                "touched rows": size,
                "bytes": sum(map(len, parts)),
                "records": len(parts),
                **{f"{step}, ms": summary.median for step, summary in steps.items()},
                "swap p99, ms": steps["swap"].p99,
                "swap of new rows, ms": fresh[size].median,
                "longest wait beside, ms": waits.scaled(1000).median,
            }
        )
    most = sizes[-1]
    targets = [
        Target(f"pause at {most:,} touched rows, median", pauses[most].median, "ms", _PAUSE_MS),
        Target(f"pause at {most:,} new rows, median", fresh[most].median, "ms", _PAUSE_MS),
        Target(
            f"longest wait while {most:,} new rows are prepared", rows[-1]["longest wait beside, ms"], "ms", _PAUSE_MS
        ),
    ]
    notes = [
        "trainer: encode; worker's update thread: assemble, prepare; worker's main thread: swap (the pause)",
        f"the table has {2 * most:,} items; the worker has all touched rows already, except in the last two columns",
        "longest wait beside: of a thread that does small products while an update of new rows is prepared, as it needs"
        " the interpreter for each",
    ]
    return Findings({"results": rows}, _picture(pauses, fresh), targets, notes)


class _Updates:
    """Generates deltas of the default model, of random item rows of a table of `items` rows."""

    def __init__(self, items: int) -> None:
        self._spec = preset("sam")
        self._dims = table_dims(self._spec)
        self._rng = np.random.default_rng(0)
        learner = Learner(self._spec)
        learner.begin_epoch(1)
        self._fingerprint = learner.fingerprint
        self._dense = {name: value for name, value in learner.base(_ARM).tensors.items() if "/" not in name}
        keys = spread_keys(np.arange(1, items + 1))
        self._keys = {"item": keys, "category": keys[:_CATEGORIES]}
        self._version = 0

    def delta(self, size: int, *, offset: int = 0) -> Update:
        """Return the next delta of `size` random item rows; with an offset they are new items."""
        self._version += 1
        keys = {name: known[self._rng.permutation(len(known))[:size]] for name, known in self._keys.items()}
        keys["item"] = keys["item"] + np.uint64(offset)
        return self._update("delta", keys)

    def measure(self, size: int, repeats: int) -> dict[str, list[float]]:
        """Return the seconds of each step for `repeats` deltas of `size` existing rows."""
        scorer, assembler = self._scorer(), Assembler([_ARM])
        taken: dict[str, list[float]] = {step: [] for step in ("encode", "assemble", "prepare", "swap")}
        for _ in range(repeats):
            update = self.delta(size)
            parts = _timed(taken["encode"], partial(split, update, RECORD_BYTES))
            whole = _timed(taken["assemble"], partial(_assembled, assembler, parts))
            ready = _timed(taken["prepare"], partial(scorer.prepare, whole))
            _timed(taken["swap"], partial(scorer.commit, ready))
        return taken

    def measure_new(self, size: int, repeats: int) -> tuple[Summary, Summary]:
        """Return the seconds of a swap when all rows are new, and of the longest wait while they are prepared."""
        scorer = self._scorer()
        taken: list[float] = []
        waits: list[float] = []
        with ThreadPoolExecutor(1) as beside:
            for number in range(1, repeats + 1):
                preparing = beside.submit(scorer.prepare, self.delta(size, offset=number))
                waits.append(_longest_wait(preparing.done))
                _timed(taken, partial(scorer.commit, preparing.result()))
        return Summary.of(taken), Summary.of(waits)

    def _scorer(self) -> Scorer:
        self._version = 0
        scorer = Scorer(self._spec)
        scorer.apply(self._update("base", self._keys))
        return scorer

    def _update(self, kind: Literal["base", "delta"], keys: dict[str, Keys]) -> Update:
        tensors: dict[str, npt.NDArray[Any]] = dict(self._dense)
        for name, chosen in keys.items():
            tensors[f"{name}/keys"] = chosen
            tensors[f"{name}/values"] = self._rng.normal(size=(len(chosen), self._dims[name])).astype(np.float32)
        return Update(_ARM, kind, 1, self._version, self._fingerprint, tensors)


def _assembled(assembler: Assembler, parts: list[bytes]) -> Update:
    *_, whole = [assembler.add(part) for part in parts]
    if whole is None:
        raise ValueError("the parts do not complete an update")
    return whole


def _timed(taken: list[float], work: Callable[[], T]) -> T:
    began = time.perf_counter()
    result = work()
    taken.append(time.perf_counter() - began)
    return result


def _longest_wait(done: Callable[[], bool]) -> float:
    """Work in short steps until something is done; returns the seconds of the longest one."""
    matrix = torch.ones(64, 64)
    longest, before = 0.0, time.perf_counter()
    while not done():
        torch.mm(matrix, matrix)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    return longest


def _picture(pauses: dict[int, Summary], fresh: dict[int, Summary]) -> Callable[[], bytes]:
    def draw() -> bytes:
        sizes = list(pauses)
        title = f"A worker pauses for {pauses[sizes[-1]].median:.1f} ms to apply an update of {sizes[-1]:,} rows"
        with picture(title, "median and quartiles of the swap, ms, by touched rows") as (axes, save):
            axes.set_xscale("log")
            axes.set_yscale("log")
            for series, colour in ((pauses, PALETTE[0]), (fresh, PALETTE[1])):
                summaries = list(series.values())
                axes.fill_between(
                    sizes,
                    [each.q25 for each in summaries],
                    [each.q75 for each in summaries],
                    color=colour,
                    alpha=0.18,
                    lw=0,
                )
                axes.plot(sizes, [each.median for each in summaries], "o-", color=colour)
            axes.axhline(_PAUSE_MS, color=QUIET, lw=1, ls=(0, (4, 3)))
            axes.annotate(f"target {_PAUSE_MS:g} ms", (sizes[0], _PAUSE_MS), xytext=(0, 5), textcoords="offset points",
                          color=QUIET)  # fmt: skip
            for text, series, colour in (("existing rows", pauses, PALETTE[0]), ("new rows", fresh, PALETTE[1])):
                axes.annotate(text, (sizes[-1], series[sizes[-1]].median), xytext=(9, 0), textcoords="offset points",
                              va="center", color=colour, fontweight="bold", annotation_clip=False)  # fmt: skip
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("touched rows")
            return save()

    return draw
