"""`bench state`: what the sequences of users cost to read, to append to and to commit; in time, memory and disk."""

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
from stream.bench.harness.timing import Spread, alternate
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, picture

_COLD_US, _HOT_US = 60.0, 5.0
_BATCH = 16
"""Users of a batch: as many as a worker scores at once."""
_LENGTH, _SLACK = 1000, 256
_COMMIT = 500
_HOT_BYTES = 1 << 30
_COLD_BYTES = 1


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Measure on a partition whose users have more behaviours than are kept; cold is: in no cache of ours."""
    users, repeats = (100, 20) if arguments.quick else (2_000, 400)
    rng = np.random.default_rng(0)
    names = [f"user-{number}" for number in range(users)]
    with tempfile.TemporaryDirectory(prefix="samstream-bench-") as scratch:
        path = Path(scratch) / "partition"
        console.print(f"filling {users:,} users …")
        _fill(path, names, rng)
        disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / users
        console.print("reading and appending …")
        times, memory = _times(path, names, rng, repeats)
        console.print("committing …")
        # Every user goes once through a whole chunk, so that its mean length counts, and memory is flushed on the way.
        commit, written = _commits(path, names, rng, users * CHUNK // _COMMIT)
    labels = {
        "read cold": ("µs a user", 1e6 / _BATCH),
        "read hot": ("µs a user", 1e6 / _BATCH),
        "append cold": ("µs a behaviour", 1e6 / _BATCH),
        "append hot": ("µs a behaviour", 1e6 / _BATCH),
    }
    spreads = {what: (unit, times[what].scaled(factor)) for what, (unit, factor) in labels.items()}
    spreads[f"commit {_COMMIT} behaviours"] = ("ms", commit.scaled(1000))
    rows = [
        {"what": what, "median": each.median, "quartiles": f"{each.low:.3g}-{each.high:.3g}", "unit": unit}
        for what, (unit, each) in spreads.items()
    ]
    sizes = {"memory of a hot user": memory / 1000, "disk of a user": disk / 1000}
    rows += [{"what": what, "median": value, "quartiles": None, "unit": "kB"} for what, value in sizes.items()]
    if written is not None:
        rows.append({"what": "bytes written a byte appended", "median": written, "quartiles": None, "unit": "times"})
    cold, hot = spreads["read cold"][1].median, spreads["read hot"][1].median
    targets = [Target("read cold", cold, "µs", _COLD_US), Target("read hot", hot, "µs", _HOT_US)]
    notes = [
        f"{users:,} users of {_LENGTH} + {_SLACK} behaviours, {BEHAVIOR.itemsize} bytes each; {_BATCH} users a batch",
        "cold: neither in the cache of users nor, mostly, in RocksDB's; the operating system has the files in memory",
        "bytes written: log, flush and compaction, as Linux counts them, for single behaviours of random users",
    ]
    return Findings(rows, targets, _picture({what: spreads[what][1] for what in labels}), notes)


def _fill(path: Path, names: Sequence[str], rng: np.random.Generator) -> None:
    partition = _open(path, _COLD_BYTES)
    each = 50
    for number in range(-(-(_LENGTH + 2 * _SLACK) // each)):
        for name in names:
            partition.sequences.append(name, _behaviors(rng, each))
        partition.commit({"behaviors": number})
    partition.close()


def _times(path: Path, names: Sequence[str], rng: np.random.Generator, repeats: int) -> tuple[dict[str, Spread], float]:
    """Return seconds of a batch for each thing that is done, and the bytes of memory of a hot user."""
    record = _behaviors(rng, 1)
    # Drawn before: drawing would take longer than a hot read.
    batches = cycle([[names[user] for user in batch] for batch in rng.integers(len(names), size=(1000, _BATCH))])

    def read(partition: Partition) -> None:
        for name in next(batches):
            partition.sequences.read(name)

    def append(partition: Partition) -> None:
        for name in next(batches):
            partition.sequences.append(name, record)

    partition = _open(path, _COLD_BYTES)
    times = alternate({"read cold": lambda: read(partition)}, repeats=repeats)
    times |= alternate({"append cold": lambda: append(partition)}, repeats=min(repeats, len(names) // (2 * _BATCH)))
    partition.close()
    partition = _open(path, _HOT_BYTES)
    for name in names:
        partition.sequences.read(name)
    memory = partition.sequences.cached_bytes / len(names)
    times |= alternate({"read hot": lambda: read(partition), "append hot": lambda: append(partition)}, repeats=repeats)
    partition.close()
    return times, memory


def _commits(path: Path, names: Sequence[str], rng: np.random.Generator, repeats: int) -> tuple[Spread, float | None]:
    """Return the seconds of a commit of single behaviours of random users, and bytes written for each one appended."""
    partition = _open(path, _HOT_BYTES)
    taken: list[float] = []
    began = _written()
    for number in range(repeats):
        for user in rng.integers(len(names), size=_COMMIT):
            partition.sequences.append(names[user], _behaviors(rng, 1))
        before = time.perf_counter()
        partition.commit({"behaviors": number})
        taken.append(time.perf_counter() - before)
    partition.close()
    ended = _written()
    payload = repeats * _COMMIT * BEHAVIOR.itemsize
    return Spread.of(taken), None if began is None or ended is None else (ended - began) / payload


def _open(path: Path, cache_bytes: int) -> Partition:
    return Partition.open(path, length=_LENGTH, slack=_SLACK, cache_bytes=cache_bytes)


def _behaviors(rng: np.random.Generator, count: int) -> BehaviorArray:
    records = np.zeros(count, BEHAVIOR)
    records["item"] = rng.integers(1, 2**62, count)
    return records


def _written() -> int | None:
    """Return the bytes that this process has written to files, None where the system does not say."""
    counts = Path("/proc/self/io")
    if not counts.exists():
        return None
    return int(dict(line.split(": ") for line in counts.read_text().splitlines())["wchar"])


def _picture(spreads: dict[str, Spread]) -> Callable[[], bytes]:
    def draw() -> bytes:
        cold, hot = spreads["read cold"].median, spreads["read hot"].median
        title = f"A user's 1000 behaviours are read in {cold:.0f} µs from RocksDB, in {hot:.1f} µs from memory"
        with picture(title, "median and quartiles, µs, one partition, one thread", height=3.6) as (axes, save):
            places = range(len(spreads))
            for place, (what, each) in zip(places, reversed(spreads.items()), strict=True):
                colour = PALETTE[0] if "read" in what else PALETTE[2]
                error = [[each.median - each.low], [each.high - each.median]]
                axes.barh(place, each.median, color=colour, height=0.55, xerr=error, ecolor=QUIET)
                axes.annotate(f"{each.median:.3g}", (each.high, place), xytext=(7, 0), textcoords="offset points",
                              va="center", color=colour, fontweight="bold")  # fmt: skip
            axes.set_yticks(list(places), list(reversed(spreads)))
            axes.grid(visible=False, axis="y")
            axes.grid(visible=True, axis="x")
            axes.figure.subplots_adjust(left=0.14)
            axes.set_xlabel("µs a user, µs a behaviour")
            return save()

    return draw
