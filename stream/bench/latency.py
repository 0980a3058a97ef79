"""`bench latency`: the time from a request to its answer at rising request rates, and its parts."""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Console

from stream.bench.harness.load import Population, TimedAnswer, loaded_system
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, pictures

_RATE, _P99_MS = 40.0, 30.0
_RATES = (5.0, 20.0, 40.0, 80.0, 120.0, 180.0, 260.0, 360.0)
_ROUNDS, _SECONDS = 3, 20.0
_PARTS = ("to and from Kafka", "wait", "read state", "score")
_P999_ANSWERS = 1000
"""Fewer answers than this have no meaningful p99.9."""

Floats = npt.NDArray[np.float64]


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Send requests at each rate in each round, with one worker and one trainer that learns from the clicks."""
    rates, rounds, seconds = ((20.0, 40.0), 1, 1.0) if arguments.quick else (_RATES, _ROUNDS, _SECONDS)
    population = Population(users=20, history=60) if arguments.quick else Population()
    answers: dict[float, list[list[TimedAnswer]]] = {rate: [] for rate in rates}
    console.print(f"starting a system on {arguments.broker}, {population.users} users …")
    with loaded_system(arguments.broker, population) as (system, load):
        load.run(rates[0], min(seconds, 5.0), system.check)  # warm up: the first answers fill caches
        for number in range(rounds):
            for rate in rates:
                answers[rate].append(load.run(rate, seconds, system.check).answers)
                p50, p99 = np.percentile(_latencies(answers[rate][-1]), (50, 99))
                console.print(f"round {number + 1}: {rate:g} a second, p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    rows = [summary_row(rate, answers[rate]) for rate in rates]
    p99_at_rate = {row["requests a second"]: row["p99, ms"] for row in rows}.get(_RATE)
    notes = [
        "one worker, one trainer, the broker and the load generator share the machine; "
        f"{population.candidates} candidates, {population.history} behaviours a user",
        f"percentiles: medians over {rounds} round(s) of {seconds:g} s; p99.9 over all rounds together",
        "latency counts from the scheduled time of the request, even when it could not be sent then (open loop)",
    ]
    target = Target(f"p99 at {_RATE:g} a second", p99_at_rate, "ms", _P99_MS)
    return Findings({"results": rows}, _picture(rows), [target], notes)


def summary_row(rate: float, rounds: Sequence[Sequence[TimedAnswer]]) -> dict[str, float | int | None]:
    """Return the row of one rate: percentiles of the latency, and the median of each of its parts."""
    together = [answer for answers in rounds for answer in answers]
    p50, p99 = np.median([np.percentile(_latencies(answers), (50, 99)) for answers in rounds], axis=0).tolist()
    enough = len(together) >= _P999_ANSWERS
    parts = np.median([latency_parts(answer) for answer in together if answer.spent is not None], axis=0).tolist()
    return {
        "requests a second": rate,
        "answers": len(together),
        "unanswered": sum(answer.spent is None for answer in together),
        "p50, ms": p50,
        "p99, ms": p99,
        "p99.9, ms": float(np.percentile(_latencies(together), 99.9)) if enough else None,
        **{f"{part}, ms": value for part, value in zip(_PARTS, parts, strict=True)},
    }


def latency_parts(answer: TimedAnswer) -> tuple[float, float, float, float]:
    """Return the milliseconds of each of `_PARTS`; the time outside the worker is that to and from Kafka."""
    spent = answer.spent
    if spent is None:
        return (0.0, 0.0, 0.0, 0.0)
    return (answer.latency_ms - spent.wait - spent.state - spent.score, spent.wait, spent.state, spent.score)


def _latencies(answers: Sequence[TimedAnswer]) -> Floats:
    return np.array([answer.latency_ms for answer in answers])


def _picture(rows: Sequence[dict[str, float | int | None]]) -> Callable[[], bytes]:
    def column(name: str) -> Floats:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)

    def draw() -> bytes:
        from matplotlib.ticker import LogLocator, NullLocator

        rates, p99 = column("requests a second"), column("p99, ms")
        at = int(np.abs(rates - _RATE).argmin())
        title = f"At {rates[at]:g} requests a second, 99% of the answers arrive within {p99[at]:.0f} ms"
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
