"""`bench growth`: latency and the memory of a worker as the users with full histories become more."""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from stream.bench.harness.full_state import add_full_histories
from stream.bench.harness.load import Population, TimedAnswer, loaded_system
from stream.bench.harness.probe import read_process
from stream.errors import StreamError
from stream.report.findings import Findings, Rows, Target
from stream.report.plots.figure import INK, PALETTE, pictures
from stream.settings import Settings

RATE = 20.0
"""Requests a second."""
_USERS = (100, 1_000, 10_000, 100_000)
_SECONDS, _WARM_UP_S = 60.0, 60.0
_WORKER, _ASSIGNED = "worker-1", "assigned partitions=0 "
_START_S = 300.0
_ROCKSDB_MB = 101
"""What RocksDB may take of a partition: two write buffers of 32 MiB and a block cache as large."""
_FULL_CACHE = 10_000
"""So many users are far more than the cache of hot users holds."""


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Start a worker on the state of so many users, send requests of all of them, and see what it takes."""
    sizes, seconds, warm_up = ((20, 40), 3.0, 2.0) if arguments.quick else (_USERS, _SECONDS, _WARM_UP_S)
    rows: Rows = []
    with tempfile.TemporaryDirectory(prefix="samstream-bench-") as scratch:
        full, written = Path(scratch) / "full", 0
        for users in sizes:
            console.print(f"{users:,} users …")
            size = add_full_histories(full, written, users, console)
            written = users
            rows.append(_measure(arguments.broker, users, full, warm_up, seconds) | {"disk, MB": size / 1e6})
    bound = Settings().state.cache_mb * 1.048576 + _ROCKSDB_MB
    by_users = {row["users"]: row["memory, MB"] for row in rows}
    before = by_users[min(_FULL_CACHE, sizes[-2])]
    target = Target(
        f"memory with {sizes[-1]:,} users, less that with {min(_FULL_CACHE, sizes[-2]):,}",
        by_users[sizes[-1]] - before,
        "MB",
        bound,
    )
    notes = [
        f"{RATE:g} requests a second for {seconds:g} s after {warm_up:g} s, of users drawn evenly; 50 candidates; one"
        " worker, one partition, a trainer that does not learn, the broker and the load generator share the machine",
        "histories of 1256 behaviours are written through the worker's own state, without Kafka; the worker opens a"
        " copy of it and reads only what is sent",
        f"memory: resident, at the end; its bound: {Settings().state.cache_mb} MiB for hot users (`state.cache_mb`),"
        " and of RocksDB two write buffers and a block cache of 32 MiB each",
    ]
    return Findings({"results": rows}, _picture(rows), [target], notes)


def _measure(broker: str, users: int, full: Path, warm_up: float, seconds: float) -> dict[str, Any]:
    """Return the row of so many users."""
    population = Population(users=users)
    arm = {"name": "sam", "preset": "sam", "learn": False}
    with loaded_system(broker, population, full=full, topics={"partitions": 1}, arm=arm) as (system, load):
        deadline = time.monotonic() + _START_S
        while _ASSIGNED not in system.processes.log(_WORKER).read_text():
            system.check()
            if time.monotonic() > deadline:
                raise StreamError(f"the worker had no partition after {_START_S:.0f} s")
            time.sleep(0.1)
        load.run(RATE, warm_up, system.check)
        answers = load.run(RATE, seconds, system.check).answers
        found = read_process(system.processes.pid(_WORKER))
    if found is None:
        raise StreamError("the worker has ended: its memory cannot be read")
    return {"users": users, **summary(answers), "memory, MB": found.memory}


def summary(answers: Sequence[TimedAnswer]) -> dict[str, float | None]:
    """Return p50 and p99 of the latency, and the median of the time that reading the state took (ms)."""
    p50, p99 = np.percentile([answer.latency_ms for answer in answers], (50, 99)).tolist()
    read = [answer.spent.state for answer in answers if answer.spent is not None]
    return {"p50, ms": p50, "p99, ms": p99, "read state, ms": float(np.median(read)) if read else None}


def _picture(rows: Rows) -> Callable[[], bytes]:
    def draw() -> bytes:
        first, last = rows[0], rows[-1]
        title = (
            f"With {last['users'] // first['users']:,} times the users, a worker takes"
            f" {last['memory, MB'] - first['memory, MB']:.0f} MB more"
        )
        users = [row["users"] for row in rows]
        with pictures(2, title, "by users with full histories", height=4.4) as ((left, right), save):
            for axes in (left, right):
                axes.set_xscale("log")
                axes.set_xticks(users, [f"{each:,}" for each in users])
                axes.set_xlabel("users")
            for name, colour in zip(("p50, ms", "p99, ms", "read state, ms"), PALETTE, strict=False):
                left.plot(users, [row[name] for row in rows], "o-", color=colour, label=name.removesuffix(", ms"))
            left.set_title("latency and reading of the state, ms", fontsize=10.5, pad=4, fontweight="normal")
            left.set_yscale("log")
            left.yaxis.set_major_formatter("{x:g}")
            left.legend(frameon=False, fontsize=9.5)
            right.plot(users, [row["memory, MB"] for row in rows], "o-", color=PALETTE[0])
            for row in rows:
                right.annotate(
                    f"{row['memory, MB']:.0f}", (row["users"], row["memory, MB"]), xytext=(0, 8),
                    textcoords="offset points", ha="center", color=INK, fontsize=9.5,
                )  # fmt: skip
            right.set_title("memory of the worker, MB", fontsize=10.5, pad=4, fontweight="normal")
            right.set_ylim(0, 1.15 * max(row["memory, MB"] for row in rows))
            return save()

    return draw
