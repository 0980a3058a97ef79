"""`bench latency`: how long an answer takes while the rate of requests rises, and where that time goes."""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Console

from stream.bench.harness.load import Answered, Population, loaded_system
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, pictures

_RATE, _P99_MS = 40.0, 30.0
_RATES = (5.0, 20.0, 40.0, 80.0, 120.0, 180.0, 260.0, 360.0)
_ROUNDS, _SECONDS = 3, 20.0
_PARTS = ("to and from Kafka", "wait", "read state", "score")
_ENOUGH = 1000
"""Answers below which a percentile of 99.9 means nothing."""

Floats = npt.NDArray[np.float64]


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Ask at each rate in each round, with one worker and one trainer that learns from the clicks."""
    rates, rounds, seconds = ((20.0, 40.0), 1, 3.0) if arguments.quick else (_RATES, _ROUNDS, _SECONDS)
    population = Population(users=20, history=60) if arguments.quick else Population()
    answers: dict[float, list[list[Answered]]] = {rate: [] for rate in rates}
    console.print(f"starting a system on {arguments.broker}, {population.users} users …")
    with loaded_system(arguments.broker, population) as (system, load):
        load.run(rates[0], min(seconds, 5.0), system.check)  # the first answers compile and fill caches
        for number in range(rounds):
            for rate in rates:
                answers[rate].append(load.run(rate, seconds, system.check).answers)
                p50, p99 = np.percentile(_latencies(answers[rate][-1]), (50, 99))
                console.print(f"round {number + 1}: {rate:g} a second, p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    rows = [summary(rate, answers[rate]) for rate in rates]
    reached = {row["requests a second"]: row["p99, ms"] for row in rows}.get(_RATE)
    notes = [
        f"one worker, one trainer, the broker and the sender share the machine; {population.candidates} candidates,"
        f" {population.history} behaviours a user",
        f"percentiles: medians over {rounds} round(s) of {seconds:g} s; p99.9 over all rounds together",
        "an answer counts from the moment at which its request was due, whatever kept it from being sent then",
    ]
    return Findings(rows, [Target(f"p99 at {_RATE:g} a second", reached, "ms", _P99_MS)], _picture(rows), notes)


def summary(rate: float, rounds: Sequence[Sequence[Answered]]) -> dict[str, float | int | None]:
    """Return the row of one rate: percentiles of latency, and the median of each part of it."""
    together = [answer for answers in rounds for answer in answers]
    p50, p99 = np.median([np.percentile(_latencies(answers), (50, 99)) for answers in rounds], axis=0).tolist()
    enough = len(together) >= _ENOUGH
    parts = np.median([split(answer) for answer in together if answer.spent is not None], axis=0).tolist()
    return {
        "requests a second": rate,
        "answers": len(together),
        "unanswered": sum(answer.spent is None for answer in together),
        "p50, ms": p50,
        "p99, ms": p99,
        "p99.9, ms": float(np.percentile(_latencies(together), 99.9)) if enough else None,
        **{f"{part}, ms": value for part, value in zip(_PARTS, parts, strict=True)},
    }


def split(answer: Answered) -> tuple[float, float, float, float]:
    """Return the milliseconds of each of `_PARTS`; what the worker did not spend was spent to and from Kafka."""
    spent = answer.spent
    if spent is None:
        return (0.0, 0.0, 0.0, 0.0)
    return (answer.latency_ms - spent.wait - spent.state - spent.score, spent.wait, spent.state, spent.score)


def _latencies(answers: Sequence[Answered]) -> Floats:
    return np.array([answer.latency_ms for answer in answers])


def _picture(rows: Sequence[dict[str, float | int | None]]) -> Callable[[], bytes]:
    def column(name: str) -> Floats:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)

    def draw() -> bytes:
        from matplotlib.ticker import LogLocator, NullLocator

        rates, p99 = column("requests a second"), column("p99, ms")
        at = int(np.abs(rates - _RATE).argmin())
        title = f"At {rates[at]:g} requests a second, 99 of 100 answers come within {p99[at]:.0f} ms"
        with pictures(2, title, "latency by request rate, ms, and the shares of its parts", height=4.8) as (axes, save):
            left, right = axes
            for colour, name in zip(PALETTE, ("p50, ms", "p99, ms", "p99.9, ms"), strict=False):
                left.plot(rates, column(name), "o-", color=colour, label=name.removesuffix(", ms"))
            left.axhline(_P99_MS, color=QUIET, lw=1, ls=(0, (4, 3)), label=f"target of p99, {_P99_MS:g} ms")
            left.set_yscale("log")
            left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            left.yaxis.set_major_formatter("{x:g}")
            left.yaxis.set_minor_locator(NullLocator())
            left.set_xlabel("requests a second")
            total = sum(np.maximum(column(f"{part}, ms"), 0) for part in _PARTS)
            places, bottom = np.arange(len(rates)), np.zeros(len(rates))
            for colour, part in zip(PALETTE, _PARTS, strict=False):
                share = 100 * np.maximum(column(f"{part}, ms"), 0) / total
                right.bar(places, share, bottom=bottom, color=colour, width=0.65, label=part)
                bottom += share
            right.set_xticks(places, [f"{rate:g}" for rate in rates])
            right.yaxis.set_major_formatter("{x:g}%")
            right.set_xlabel("requests a second")
            left.figure.subplots_adjust(top=0.72)
            for each in axes:
                each.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, fontsize=10)
            return save()

    return draw
