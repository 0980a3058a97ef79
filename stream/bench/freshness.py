"""`bench freshness`: the time from a click to the first answer of a model that has learned from it."""

import argparse
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from rich.console import Console

from stream.bench.harness.load import Population, TimedAnswer, loaded_system
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, picture
from stream.schema.update_headers import UpdateHeaders

_RATE, _P50_S, _P99_S = 40.0, 0.4, 0.8
_RATES = (10.0, 20.0, 40.0, 60.0)
_ROUNDS, _SECONDS = 3, 30.0


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Send requests and clicks at each rate in each round, and find for each click the first answer that knows it."""
    rates, rounds, seconds = ((20.0,), 1, 4.0) if arguments.quick else (_RATES, _ROUNDS, _SECONDS)
    population = Population(users=20, history=60) if arguments.quick else Population()
    ages: dict[float, list[list[float]]] = {rate: [] for rate in rates}
    console.print(f"starting a system on {arguments.broker}, {population.users} users …")
    with loaded_system(arguments.broker, population) as (system, load):
        load.run(rates[0], min(seconds, 5.0), system.check)
        for number in range(rounds):
            for rate in rates:
                result = load.run(rate, seconds, system.check)
                ages[rate].append(click_ages(result.answers, result.announced))
                console.print(f"round {number + 1}: {rate:g} a second, {len(ages[rate][-1])} clicks learned")
    rows = [_row(rate, [each for each in ages[rate] if each]) for rate in rates]
    target_row = rows[rates.index(_RATE)] if _RATE in rates else rows[-1]
    where = f"at {target_row['requests a second']:g} a second"
    targets = [
        Target(f"p50 {where}", target_row["p50, s"], "s", _P50_S),
        Target(f"p99 {where}", target_row["p99, s"], "s", _P99_S),
    ]
    notes = [
        f"medians over {rounds} round(s) of {seconds:g} s; from the click's Kafka timestamp to the answer received",
        "clicks that no answer of a round has learned from are left out: the round ended before",
    ]
    together = {rate: list(chain.from_iterable(each)) for rate, each in ages.items()}
    return Findings({"results": rows}, _picture(together), targets, notes)


def click_ages(answers: Sequence[TimedAnswer], announced: Sequence[UpdateHeaders]) -> list[float]:
    """Return the age (s) of each announced click when the first answer of a model that has learned from it arrived.

    Clicks that no answer has learned from are left out.
    """
    in_order = sorted((answer.received, answer.version) for answer in answers if answer.spent is not None)
    times = np.array([received for received, _ in in_order])
    # The newest version up to each answer never decreases, so a binary search finds the first answer.
    newest: list[tuple[int, int]] = []
    for _, version in in_order:
        newest.append(max(version, newest[-1]) if newest else version)
    ages = []
    for update in announced:
        first = bisect_left(newest, (update.epoch, update.version))
        if first < len(newest):
            ages += [float(times[first]) - click / 1000 for click in update.clicks]
    return ages


def _row(rate: float, rounds: Sequence[Sequence[float]]) -> dict[str, float | int | None]:
    clicks = sum(map(len, rounds))
    p50, p99 = (
        np.median([np.percentile(each, (50, 99)) for each in rounds], axis=0).tolist() if clicks else (None, None)
    )
    return {"requests a second": rate, "clicks": clicks, "p50, s": p50, "p99, s": p99}


def _picture(ages: dict[float, list[float]]) -> Callable[[], bytes]:
    def draw() -> bytes:
        at = _RATE if _RATE in ages else max(ages)
        p50, p99 = np.percentile(ages[at], (50, 99)) if ages[at] else (np.nan, np.nan)
        title = (
            f"At {at:g} requests a second, half of the clicks are learned within {p50:.2f} s, 99% within {p99:.2f} s"
        )
        with picture(title, "share of clicks that an answer has learned from, by seconds since the click") as (
            axes,
            save,
        ):
            for colour, (rate, each) in zip(PALETTE, ages.items(), strict=False):
                shares = np.arange(1, len(each) + 1) / max(1, len(each))
                axes.plot(np.sort(each), 100 * shares, color=colour, label=f"{rate:g} requests a second")
            for seconds, share in ((_P50_S, 50), (_P99_S, 99)):
                axes.plot([seconds], [share], "x", color=QUIET, ms=8, mew=2)
                axes.annotate(f"target: {share}%", (seconds, share), xytext=(8, -12), textcoords="offset points",
                              color=QUIET)  # fmt: skip
            axes.set_xlim(left=0)
            axes.set_ylim(0, 103)
            axes.yaxis.set_major_formatter("{x:g}%")
            axes.set_xlabel("seconds")
            axes.legend(frameon=False, loc="lower right")
            return save()

    return draw
