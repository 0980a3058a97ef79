"""`bench ranks`: what a second rank of a trainer brings, and what the ranks exchange in a step."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from model.distributed.ranks import Ranks
from model.learner import Learner
from model.peers import Peers, WholeStep
from model.spec import preset
from stream.bench.harness.examples import NOW, example
from stream.bench.harness.rank_pool import RankPool
from stream.bench.harness.timing import Summary
from stream.bench.training import SHOWN
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, pictures

_GAIN = 1.5
_EXCHANGES = ("counts", "keys", "vectors", "gradients", "dense", "sums")
_WARM_UP = 3
_BATCHES = 4
_WAIT_S = 300.0


@dataclass(frozen=True, slots=True)
class RankSizes:
    """Presets, numbers of ranks; requests of a rank's step, and their behaviours; steps of a round, and rounds."""

    presets: tuple[str, ...] = ("sam", "din", "mean")
    ranks: tuple[int, ...] = (1, 2)
    requests: int = 32
    length: int = 1000
    steps: int = 20
    rounds: int = 8


QUICK = RankSizes(("sam-30", "mean-30"), (1, 2), 2, 30, 2, 2)


class Round(NamedTuple):
    """What a rank has measured: seconds of each step, processor seconds of all, and bytes sent, by exchange."""

    seconds: list[float]
    processor_s: float
    sent: dict[str, int]


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Measure the numbers of ranks in turns, each with one thread a rank and as much to learn for each rank."""
    sizes = QUICK if arguments.quick else RankSizes()
    pools = {ranks: RankPool(ranks, wait_s=_WAIT_S) for ranks in sizes.ranks}
    rows: list[dict[str, Any]] = []
    targets: list[Target] = []
    try:
        for kind in sizes.presets:
            console.print(f"{kind} …")
            measured: dict[int, list[Round]] = {ranks: [] for ranks in sizes.ranks}
            for number in range(1 + sizes.rounds):
                for ranks, pool in pools.items():
                    found = pool.run(take_steps, [(kind, rank, ranks, number == 0, sizes) for rank in range(ranks)])
                    if number:  # the first round builds the learners
                        measured[ranks].append(found[0])
            of_kind = [_row(kind, ranks, measured[ranks], sizes) for ranks in sizes.ranks]
            rows += of_kind
            gain = of_kind[-1]["samples/s"] / of_kind[0]["samples/s"]
            targets.append(Target(f"samples/s, {sizes.ranks[-1]} ranks / 1, {kind}", gain, "times", _GAIN, "at least"))
    finally:
        for pool in pools.values():
            pool.close()
    notes = [
        f"{sizes.requests} requests of {SHOWN} items and {sizes.length} behaviours a rank and step, from 100,000 items;"
        " one thread a rank; all ranks on this machine, over gloo and the loopback device",
        "CPU ms: processor time of one rank in a step; what it waits for others is in `ms a step` alone",
        "KB: sent by one rank in a step, itself included; a rank of one sends nothing",
        "the learner alone: no Kafka, no sequences, no checkpoints",
    ]
    return Findings({"results": rows}, lambda: _picture(rows, sizes), targets, notes)


_learners: dict[str, Learner] = {}
"""Preset → the learner of this process."""


def take_steps(peers: Peers, kind: str, rank: int, ranks: int, anew: bool, sizes: RankSizes) -> Round:
    """Take the steps of a round on this rank; `anew` with a learner that has learned nothing."""
    rng = np.random.default_rng(rank)
    batches = [
        [example(rng, sizes.length, SHOWN, labelled=True) for _ in range(sizes.requests)] for _ in range(_BATCHES)
    ]
    if anew:
        _learners[kind] = Learner(preset(kind), peers=peers)
    learner, whole = _learners[kind], WholeStep(ranks * sizes.requests * SHOWN, NOW)
    for number in range(_WARM_UP):
        learner.learn(batches[number % _BATCHES], whole)
    before = dict(peers.group.sent) if isinstance(peers, Ranks) else {}
    seconds, processor = [], time.process_time()
    for number in range(sizes.steps):
        began = time.perf_counter()
        learner.learn(batches[number % _BATCHES], whole)
        seconds.append(time.perf_counter() - began)
    after = dict(peers.group.sent) if isinstance(peers, Ranks) else {}
    processor_s = time.process_time() - processor
    return Round(seconds, processor_s, {name: count - before.get(name, 0) for name, count in after.items()})


def _row(kind: str, ranks: int, rounds: Sequence[Round], sizes: RankSizes) -> dict[str, Any]:
    step = Summary.of([second for each in rounds for second in each.seconds])
    ms, steps = step.scaled(1000), sizes.steps * len(rounds)
    kilobytes = {name: sum(each.sent.get(name, 0) for each in rounds) / steps / 1000 for name in _EXCHANGES}
    return {
        "preset": kind,
        "ranks": ranks,
        "samples/s": ranks * sizes.requests * SHOWN / step.median,
        "ms a step": ms.median,
        "quartiles ms": f"{ms.q25:.3g} to {ms.q75:.3g}",
        "CPU ms": sum(each.processor_s for each in rounds) / steps * 1000,
        "KB a step": sum(kilobytes.values()),
        **{f"{name} KB": size for name, size in kilobytes.items()},
    }


def _picture(rows: Sequence[dict[str, Any]], sizes: RankSizes) -> bytes:
    most = max(sizes.ranks)
    of_most = [row for row in rows if row["ranks"] == most]
    first = [row for row in rows if row["ranks"] == min(sizes.ranks)]
    gains = [many["samples/s"] / one["samples/s"] for many, one in zip(of_most, first, strict=True)]
    title = f"{most} ranks learn {min(gains):.2f} to {max(gains):.2f} times as many samples a second as one"
    subtitle = f"{sizes.requests} requests of {SHOWN} items and {sizes.length} behaviours a rank and step"
    with pictures(2, title, subtitle) as ((left, right), save):
        for place, ranks in enumerate(sizes.ranks):
            heights = [row["samples/s"] for row in rows if row["ranks"] == ranks]
            at = np.arange(len(sizes.presets)) + (place - (len(sizes.ranks) - 1) / 2) * 0.35
            label = f"{ranks} ranks" if ranks > 1 else "1 rank"
            left.bar(at, heights, 0.33, color=PALETTE[place], label=label)
        left.set_xticks(np.arange(len(sizes.presets)), list(sizes.presets))
        left.set_title("samples a second", fontsize=10.5, pad=4, fontweight="normal")
        left.legend(frameon=False)
        below = np.zeros(len(of_most))
        for place, name in enumerate(_EXCHANGES):
            heights = [row[f"{name} KB"] for row in of_most]
            right.bar(np.arange(len(of_most)), heights, 0.5, bottom=below, color=PALETTE[place], label=name)
            below += heights
        right.set_xticks(np.arange(len(of_most)), list(sizes.presets))
        right.set_title("KB that a rank sends in a step", fontsize=10.5, pad=4, fontweight="normal")
        right.legend(frameon=False)
        return save()
