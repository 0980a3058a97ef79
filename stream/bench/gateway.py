"""`bench gateway`: what HTTP adds to the time from a request to its answer, at rising request rates."""

import argparse
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console

from stream.bench.harness.http_load import HttpResult, run_over_http
from stream.bench.harness.load import LoadGenerator, Population, loaded_system
from stream.errors import SimulationError
from stream.local.ports import free_port
from stream.local.system import System
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, pictures

_RATE, _OVERHEAD_MS = 40.0, 3.0
_RATES = (5.0, 20.0, 40.0, 80.0, 120.0)
_ROUNDS, _SECONDS = 3, 15.0
_START_S = 60.0
_SIDES = ("Kafka client", "HTTP")

Side = tuple[float, float]
"""p50 and p99 of one run, ms."""


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Send requests at each rate through the Kafka client and over HTTP, in turns, to one system."""
    rates, rounds, seconds = ((20.0, 40.0), 1, 1.0) if arguments.quick else (_RATES, _ROUNDS, _SECONDS)
    population = Population(users=20, history=60) if arguments.quick else Population()
    found: dict[float, list[tuple[Side, Side]]] = {rate: [] for rate in rates}
    failed = dict.fromkeys(rates, 0)
    console.print(f"starting a system on {arguments.broker}, {population.users} users …")
    with loaded_system(arguments.broker, population) as (system, load):
        url = _start_gateway(system)

        def over_kafka(rate: float) -> Side:
            answers = load.run(rate, seconds, system.check)
            failed[rate] += answers.unanswered
            return _percentiles([answer.latency_ms for answer in answers.answers])

        def over_http(rate: float) -> Side:
            result: HttpResult = run_over_http(load, url, rate, seconds, system.check)
            failed[rate] += result.failed
            return _percentiles(result.latencies_ms)

        _warm_up(load, url, rates[0], min(seconds, 5.0), system)
        for number in range(rounds):
            for rate in rates:
                sides: dict[str, Side] = {}
                both: list[tuple[str, Callable[[float], Side]]] = [(_SIDES[0], over_kafka), (_SIDES[1], over_http)]
                for name, measure in both if number % 2 == 0 else both[::-1]:
                    sides[name] = measure(rate)
                found[rate].append((sides[_SIDES[0]], sides[_SIDES[1]]))
                text = ", ".join(f"{name} p50 {sides[name][0]:.1f} p99 {sides[name][1]:.1f} ms" for name in _SIDES)
                console.print(f"round {number + 1}: {rate:g} a second, {text}")
    rows = [summary_row(rate, found[rate], failed[rate]) for rate in rates]
    added = {row["requests a second"]: row["HTTP adds, p50, ms"] for row in rows}.get(_RATE)
    notes = [
        "one worker, one trainer, one gateway, the broker and the load generator share the machine;"
        f" {population.candidates} candidates, {population.history} behaviours a user",
        f"medians over {rounds} round(s) of {seconds:g} s; the two sides take turns at being first",
        "latency counts from the scheduled time of the request, even when it could not be sent then (open loop)",
    ]
    return Findings(
        {"results": rows},
        _picture(rows),
        [Target(f"p50 over HTTP above the Kafka client's, at {_RATE:g} a second", added, "ms", _OVERHEAD_MS)],
        notes,
    )


def summary_row(rate: float, rounds: Sequence[tuple[Side, Side]], failed: int) -> dict[str, float]:
    """Return the row of one rate: medians over the rounds, also of what HTTP adds within a round."""
    sides = np.median(np.array(rounds), axis=0)
    differences = np.array([[http[0] - kafka[0], http[1] - kafka[1]] for kafka, http in rounds])
    return {
        "requests a second": rate,
        **{
            f"{name}, {part}, ms": float(sides[side][index])
            for side, name in enumerate(_SIDES)
            for index, part in enumerate(("p50", "p99"))
        },
        "HTTP adds, p50, ms": float(np.median(differences[:, 0])),
        "HTTP adds, p99, ms": float(np.median(differences[:, 1])),
        "unanswered": failed,
    }


def _percentiles(latencies_ms: Sequence[float]) -> Side:
    p50, p99 = np.percentile(latencies_ms, (50, 99)).tolist()
    return p50, p99


def _warm_up(load: LoadGenerator, url: str, rate: float, seconds: float, system: System) -> None:
    """Fill caches by both ways."""
    load.run(rate, seconds, system.check)
    run_over_http(load, url, rate, seconds, system.check)


def _start_gateway(system: System) -> str:
    """Start a gateway in the system and wait until it answers; returns its address."""
    address = f"127.0.0.1:{free_port()}"
    flags = (f"gateway.address={address}", "gateway.deadline_s=20", "gateway.max_in_flight=10000")
    system.processes.start("gateway", "gateway", *(word for flag in flags for word in ("--set", flag)))
    deadline = time.monotonic() + _START_S
    while True:
        system.check()
        try:
            urllib.request.urlopen(f"http://{address}/v1/health", timeout=5).close()
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise SimulationError(f"the gateway does not answer: {error}") from None
            time.sleep(0.1)
        else:
            return f"http://{address}"


def _picture(rows: Sequence[dict[str, float]]) -> Callable[[], bytes]:
    def draw() -> bytes:
        rates = [row["requests a second"] for row in rows]
        at = min(range(len(rates)), key=lambda index: abs(rates[index] - _RATE))
        title = f"At {rates[at]:g} requests a second, HTTP adds {rows[at]['HTTP adds, p50, ms']:.1f} ms (p50)"
        with pictures(2, title, "latency by request rate, ms", height=4.4) as (axes, save):
            for each, part in zip(axes, ("p50", "p99"), strict=True):
                for colour, name in zip(PALETTE, _SIDES, strict=False):
                    each.plot(rates, [row[f"{name}, {part}, ms"] for row in rows], "o-", color=colour, label=name)
                each.set_ylim(bottom=0)
                each.set_xlabel(f"requests a second ({part})")
                each.legend(frameon=False)
            return save()

    return draw
