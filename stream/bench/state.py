"""`bench state`: time to read, append and commit users' sequences, and their memory and disk."""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from rich.console import Console

from state.behavior import BEHAVIOR, BehaviorArray
from state.layout import CHUNK
from state.partition import Partition
from stream.bench.harness.timing import Summary, time_alternately
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, picture

_COLD_US, _HOT_US, _WRITTEN = 40.0, 2.0, 15.0
_BATCH = 16
"""Users of a batch, as a worker's default micro-batch."""
_LENGTH, _SLACK = 1000, 256
_COMMIT = 500
_HOT_BYTES = 1 << 30
_COLD_BYTES = 1


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Measure on a partition whose users have full sequences; cold reads miss samstream's own cache."""
    users, repeats = (100, 20) if arguments.quick else (2_000, 400)
    rng = np.random.default_rng(0)
    names = [f"user-{number}" for number in range(users)]
    with tempfile.TemporaryDirectory(prefix="samstream-bench-") as scratch:
        path = Path(scratch) / "partition"
        console.print(f"filling {users:,} users …")
        _fill_state(path, names, rng)
        disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / users
        console.print("reading and appending …")
        times, memory = _measure_operations(path, names, rng, repeats)
        console.print("committing …")
        # Every user fills a whole chunk, so that its mean length counts; RocksDB flushes its memtable meanwhile.
        commit, written = _measure_commits(path, names, rng, users * CHUNK // _COMMIT)
    labels = {
        "read cold": ("µs a user", 1e6 / _BATCH),
        "read hot": ("µs a user", 1e6 / _BATCH),
        "append cold": ("µs a behaviour", 1e6 / _BATCH),
        "append hot": ("µs a behaviour", 1e6 / _BATCH),
    }
    summaries = {what: (unit, times[what].scaled(factor)) for what, (unit, factor) in labels.items()}
    summaries[f"commit {_COMMIT} behaviours"] = ("ms", commit.scaled(1000))
    rows = [
        {"what": what, "median": each.median, "quartiles": f"{each.q25:.3g}-{each.q75:.3g}", "unit": unit}
        for what, (unit, each) in summaries.items()
    ]
    sizes = {"memory of a hot user": memory / 1000, "disk of a user": disk / 1000}
    rows += [{"what": what, "median": value, "quartiles": None, "unit": "kB"} for what, value in sizes.items()]
    if written is not None:
        rows.append({"what": "bytes written a byte appended", "median": written, "quartiles": None, "unit": "times"})
    cold, hot = summaries["read cold"][1].median, summaries["read hot"][1].median
    targets = [
        Target("read cold", cold, "µs", _COLD_US),
        Target("read hot", hot, "µs", _HOT_US),
        Target("bytes written a byte appended", written, "times", _WRITTEN),
    ]
    notes = [
        f"{users:,} users of {_LENGTH} + {_SLACK} behaviours, {BEHAVIOR.itemsize} bytes each; {_BATCH} users a batch",
        "cold: not in the cache of users and mostly not in RocksDB's; the files are in the page cache",
        "bytes written: write-ahead log, flush and compaction (Linux counts), for single behaviours of random users",
    ]
    return Findings({"results": rows}, _picture({what: summaries[what][1] for what in labels}), targets, notes)


def _fill_state(path: Path, names: Sequence[str], rng: np.random.Generator) -> None:
    partition = _open(path, _COLD_BYTES)
    each = 50
    for number in range(-(-(_LENGTH + 2 * _SLACK) // each)):
        for name in names:
            partition.sequences.append(name, _behaviors(rng, each))
        partition.commit({"behaviors": number})
    partition.close()


def _measure_operations(
    path: Path, names: Sequence[str], rng: np.random.Generator, repeats: int
) -> tuple[dict[str, Summary], float]:
    """Return the seconds of a batch for each operation, and the bytes of memory of a hot user."""
    record = _behaviors(rng, 1)
    # Batches before: drawing would take longer than a hot read.
    batches = cycle([[names[user] for user in batch] for batch in rng.integers(len(names), size=(1000, _BATCH))])

    def read(partition: Partition) -> None:
        for name in next(batches):
            partition.sequences.read(name)

    def append(partition: Partition) -> None:
        for name in next(batches):
            partition.sequences.append(name, record)

    partition = _open(path, _COLD_BYTES)
    times = time_alternately({"read cold": lambda: read(partition)}, repeats=repeats)
    times |= time_alternately(
        {"append cold": lambda: append(partition)}, repeats=min(repeats, len(names) // (2 * _BATCH))
    )
    partition.close()
    partition = _open(path, _HOT_BYTES)
    for name in names:
        partition.sequences.read(name)
    memory = partition.sequences.cached_bytes / len(names)
    times |= time_alternately(
        {"read hot": lambda: read(partition), "append hot": lambda: append(partition)}, repeats=repeats
    )
    partition.close()
    return times, memory


def _measure_commits(
    path: Path, names: Sequence[str], rng: np.random.Generator, repeats: int
) -> tuple[Summary, float | None]:
    """Return the seconds of a commit of single behaviours of random users, and bytes written for each byte appended."""
    partition = _open(path, _HOT_BYTES)
    taken: list[float] = []
    began = _bytes_written()
    for number in range(repeats):
        for user in rng.integers(len(names), size=_COMMIT):
            partition.sequences.append(names[user], _behaviors(rng, 1))
        before = time.perf_counter()
        partition.commit({"behaviors": number})
        taken.append(time.perf_counter() - before)
    partition.close()
    ended = _bytes_written()
    payload = repeats * _COMMIT * BEHAVIOR.itemsize
    return Summary.of(taken), None if began is None or ended is None else (ended - began) / payload


def _open(path: Path, cache_bytes: int) -> Partition:
    return Partition.open(path, length=_LENGTH, slack=_SLACK, cache_bytes=cache_bytes)


def _behaviors(rng: np.random.Generator, count: int) -> BehaviorArray:
    records = np.zeros(count, BEHAVIOR)
    records["item"] = rng.integers(1, 2**62, count)
    return records


def _bytes_written() -> int | None:
    """Return the bytes that this process has written to files; None outside Linux."""
    counts = Path("/proc/self/io")
    if not counts.exists():
        return None
    return int(dict(line.split(": ") for line in counts.read_text().splitlines())["wchar"])


def _picture(summaries: dict[str, Summary]) -> Callable[[], bytes]:
    def draw() -> bytes:
        cold, hot = summaries["read cold"].median, summaries["read hot"].median
        title = f"A user's 1000 behaviours are read in {cold:.0f} µs from RocksDB, in {hot:.1f} µs from memory"
        with picture(title, "median and quartiles, µs, one partition, one thread", height=3.6) as (axes, save):
            places = range(len(summaries))
            for place, (what, each) in zip(places, reversed(summaries.items()), strict=True):
                colour = PALETTE[0] if "read" in what else PALETTE[2]
                error = [[each.median - each.q25], [each.q75 - each.median]]
                axes.barh(place, each.median, color=colour, height=0.55, xerr=error, ecolor=QUIET)
                axes.annotate(f"{each.median:.3g}", (each.q75, place), xytext=(7, 0), textcoords="offset points",
                              va="center", color=colour, fontweight="bold")  # fmt: skip
            axes.set_yticks(list(places), list(reversed(summaries)))
            axes.grid(visible=False, axis="y")
            axes.grid(visible=True, axis="x")
            axes.figure.subplots_adjust(left=0.14)
            axes.set_xlabel("µs a user, µs a behaviour")
            return save()

    return draw
