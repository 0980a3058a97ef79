"""`bench scoring`: SAM's attention, the literal form against the served one; time of a request and a micro-batch."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console

from model.device import configure_torch
from model.example import Example
from model.interest.base import build_interest
from model.interest.sam import SparseAttentiveMemory
from model.interest.sam_reference import literal_sam
from model.kernels import native
from model.learner import Learner
from model.scorer import Scorer
from model.spec import ModelSpec, preset
from stream.bench.harness import scoring_gpu
from stream.bench.harness.examples import example, mixed_lengths
from stream.bench.harness.timing import Summary, time_alternately, time_alternately_for
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, pictures

PRESET = "sam-3p+"
THREADS = 2
"""Threads of both sides; a worker has one by default."""
USERS = 16
"""Users of a micro-batch, as a worker's default."""
LITERAL_BYTES = 2**30
"""The literal form is left out where its features alone need more memory."""


@dataclass(frozen=True, slots=True)
class ScoringSizes:
    """Candidates and lengths that are crossed, the pair that has targets, and seconds for each pair."""

    candidates: tuple[int, ...] = (1, 10, 100, 500)
    lengths: tuple[int, ...] = (50, 200, 1000, 4000)
    main: tuple[int, int] = (100, 1000)
    seconds: float = 4.0
    requests: int = 400
    batches: int = 40
    matrix: int = 1024


QUICK = ScoringSizes((1, 4), (20, 80), (4, 20), seconds=0.02, requests=5, batches=2, matrix=64)


@dataclass(slots=True)
class _Case:
    """A batch of users with sequences of one length and random tensors."""

    model: SparseAttentiveMemory
    users: int
    candidates: int
    length: int
    inputs: tuple[torch.Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        B, C, L, d = self.users, self.candidates, self.length, self.model.d
        generator = torch.Generator().manual_seed(0)
        keys, targets = (0.5 * torch.randn(B, rows, d, generator=generator) for rows in (L, C))
        match = (torch.rand(B, C, L, generator=generator) < 0.01).float()
        self.inputs = keys, torch.ones(B, L, dtype=torch.bool), targets, match

    def served(self) -> torch.Tensor:
        vectors: torch.Tensor = self.model(*self.inputs)
        return vectors

    def literal(self) -> torch.Tensor:
        return literal_sam(self.model, *self.inputs)

    @property
    def literal_bytes(self) -> int:
        return 4 * 2 * 4 * self.model.d * self.users * self.candidates * self.length

    @property
    def operations(self) -> int:
        """Floating-point operations of the attention's matrix products, in the factored form."""
        hidden: int = self.model.units[0].second.in_features
        rows = self.users * self.candidates * self.length
        return self.model.passes * rows * 2 * (hidden * (self.model.d + 1) + hidden + self.model.d)


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Measure all sizes on both sides, requests, micro-batches, and the GPU where there is one."""
    # Without huge pages, the literal form spends half of its time on page faults: malloc does not reuse its tensors.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    sizes = QUICK if arguments.quick else ScoringSizes()
    spec = preset(PRESET)
    with _threads(), torch.inference_mode():
        rows, main = _measure_sizes(sizes, spec, console)
        console.print("a request, and micro-batches")
        request, mixed = _measure_requests(sizes, spec)
    on_gpu = scoring_gpu.measure(spec, (USERS, *sizes.main), sizes.seconds)
    kernel = "with the compiled kernel" if native.library() else "in torch: the compiled kernel is not installed"
    C, L = sizes.main
    at_main = {(row["candidates"], row["length"]): row for row in rows if row["users"] == 1}
    longest = max(sizes.lengths)
    growth = at_main[C, longest]["served ms"] / at_main[C, L]["served ms"]
    speedup = None if "literal" not in main else main["literal"].median / main["served"].median
    targets = [
        Target(f"literal / served, {C} × {L}", speedup, "times", 30.0, "at least"),
        Target(f"p99 of a request, {C} × {L}", request.scaled(1000).p99, "ms", 6.0),
        Target(f"time at {longest} / at {L}, {C} candidates", growth, "times", 1.1 * longest / L),
        Target(f"{USERS} users of mixed lengths / one by one", mixed, "times", 1.1),
        Target(
            "candidates scored on a GPU, 1000 behaviours, bf16",
            on_gpu["bf16"].millions if on_gpu else None,
            "million/s",
            20.0,
            "at least",
        ),
    ]
    notes = [
        f"{THREADS} threads on both sides; the served side {kernel}; preset {PRESET}, d = {spec.width}, fp32",
        f"one request through the scorer, embeddings and head included: {request.scaled(1000).median:.2f} ms",
        f"peak of these threads, a product of {sizes.matrix}² matrices: {main['peak'].median:.0f} GFLOP/s",
        *(map(str, on_gpu.values()) if on_gpu else ["no GPU with the kernel: it is not measured"]),
    ]
    return Findings({"results": rows}, lambda: _picture(rows, sizes, speedup), targets, notes)


@contextmanager
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    configure_torch(threads=THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measure_sizes(
    sizes: ScoringSizes, spec: ModelSpec, console: Console
) -> tuple[list[dict[str, Any]], dict[str, Summary]]:
    """Return a row for each size, and the summaries of the main size, with `peak` in GFLOP/s."""
    torch.manual_seed(0)
    model = cast("SparseAttentiveMemory", build_interest(spec.width, spec.interest))
    matrix = torch.randn(sizes.matrix, sizes.matrix)
    shapes = [(1, C, L) for C in sizes.candidates for L in sizes.lengths] + [(USERS, *sizes.main)]
    rows, main = [], {}
    for users, C, L in shapes:
        console.print(f"{users} × {C} candidates × {L} behaviours")
        case = _Case(model, users, C, L)
        sides: dict[str, Callable[[], object]] = {"served": case.served, "peak": lambda: matrix @ matrix}
        if case.literal_bytes <= LITERAL_BYTES and users == 1:
            sides["literal"] = case.literal
        summaries = time_alternately_for(sides, sizes.seconds)
        peak = 2e-9 * sizes.matrix**3 / summaries["peak"].median
        speed = 1e-9 * case.operations / summaries["served"].median
        literal = summaries["literal"].scaled(1000).median if "literal" in summaries else None
        served = summaries["served"].scaled(1000)
        rows.append(
            {
                "users": users,
                "candidates": C,
                "length": L,
                "literal ms": literal,
                "served ms": served.median,
                "quartiles ms": f"{served.q25:.3g} to {served.q75:.3g}",
                "times": None if literal is None else literal / served.median,
                "GFLOP/s": speed,
                "% of peak": 100 * speed / peak,
            }
        )
        if (users, C, L) == (1, *sizes.main):
            main = summaries | {"peak": Summary.of([peak])}
    return rows, main


def _measure_requests(sizes: ScoringSizes, spec: ModelSpec) -> tuple[Summary, float]:
    """Return the seconds of one request, and the time of a micro-batch over that of its requests one by one."""
    rng = np.random.default_rng(0)
    C, L = sizes.main
    one = example(rng, L, C, labelled=True)
    batch = [example(rng, length, C, labelled=True) for length in mixed_lengths(rng, USERS, min(20, L), L)]
    scorer = _trained_scorer(spec, [one, *batch])
    request = time_alternately({"one": lambda: scorer.score([one])}, repeats=sizes.requests)["one"]
    both = time_alternately(
        {"batch": lambda: scorer.score(batch), "single": lambda: [scorer.score([each]) for each in batch]},
        repeats=sizes.batches,
    )
    return request, both["batch"].median / both["single"].median


def _trained_scorer(spec: ModelSpec, examples: list[Example]) -> Scorer:
    """Return a scorer whose tables have a row for every key of the examples."""
    with torch.inference_mode(mode=False):
        learner = Learner(spec)
        learner.begin_epoch(1)
        learner.learn(examples)
        scorer = Scorer(spec)
        scorer.apply(learner.base("arm"))
    return scorer


def _picture(rows: list[dict[str, Any]], sizes: ScoringSizes, speedup: float | None) -> bytes:
    C, L = sizes.main
    fact = "" if speedup is None else f": {speedup:.0f} times the literal form at {C} candidates × {L} behaviours"
    subtitle = f"milliseconds over the length of the sequence, {THREADS} threads, d = 32, three passes"
    single = [row for row in rows if row["users"] == 1]
    with pictures(2, f"SAM's pass{fact}", subtitle) as ((left, right), save):
        labels = []
        for side, colour in (("literal", PALETTE[1]), ("served", PALETTE[0])):
            points = [(row["length"], row[f"{side} ms"]) for row in single if row["candidates"] == C]
            at, ms = zip(*(point for point in points if point[1] is not None), strict=True)
            left.plot(at, ms, color=colour, marker="o", markersize=4)
            left.annotate(side, (at[-1], ms[-1]), xytext=(-6, 9), textcoords="offset points", color=colour, ha="right")
        left.text(0.02, 0.93, f"{C} candidates", transform=left.transAxes, fontweight="bold")
        for candidates, colour in zip(sizes.candidates, PALETTE, strict=False):
            mine = [row for row in single if row["candidates"] == candidates]
            y = [row["served ms"] for row in mine]
            right.plot([row["length"] for row in mine], y, color=colour, marker="o", markersize=4)
            labels.append((f"{candidates}", colour, y[-1]))
        right.text(0.02, 0.93, "served, by candidates", transform=right.transAxes, fontweight="bold")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(sizes.lengths, [f"{length:,}" for length in sizes.lengths])
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_xlabel("behaviours")
        for text, colour, level in labels:
            right.annotate(text, (max(sizes.lengths), level), xytext=(7, -3), textcoords="offset points", color=colour)
        return save()
