"""A partition with some life in it, saved and compared."""

import shutil
from pathlib import Path

from state.behavior import behaviors
from state.partition import Partition
from state.snapshots import Snapshots

LENGTH = 100


def opened(path: Path) -> Partition:
    return Partition.open(path, length=LENGTH, slack=28)


def live(partition: Partition, start: int, count: int) -> None:
    """Let five users do `count` things each, and commit."""
    for user in range(5):
        rows = [(user + 1, 1, 1, ts) for ts in range(start, start + count)]
        partition.sequences.append(f"user-{user}", behaviors(rows))
    partition.pending.put("i1", f"open since {start}".encode())
    partition.commit({"behaviors": start + count})


def contents(partition: Partition) -> tuple[dict[str, int], dict[str, bytes], list[bytes]]:
    return (
        dict(partition.offsets),
        dict(partition.pending.items()),
        [partition.sequences.read(f"user-{user}").tobytes() for user in range(5)],
    )


def save(store: Snapshots, partition: Partition, scratch: Path) -> int:
    partition.copy(scratch)
    try:
        return store.save(scratch, dict(partition.offsets))
    finally:
        shutil.rmtree(scratch)
