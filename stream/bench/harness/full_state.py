"""States whose users all have full histories, written as a worker writes them but without Kafka; and their copies."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from state.behavior import BEHAVIOR
from state.partition import Partition
from stream.bench.harness.examples import spread_keys

_ITEMS, _CATEGORIES = 3000, 60
_START_MS, _STEP_MS = 1_700_000_000_000, 60_000
_COMMIT = 500
_SMALL_CACHE = 1 << 20


def add_full_histories(directory: Path, first: int, last: int, console: Console) -> int:
    """Give `user-FIRST` to `user-(LAST − 1)` histories as long as the ring keeps; returns the size in bytes.

    Args:
        directory: of the state, which may be there.
        first: the first user's number.
        last: the number behind the last user's.
        console: shows progress.
    """
    rng = np.random.default_rng(first)
    partition = Partition.open(directory, cache_bytes=_SMALL_CACHE)
    length = partition.meta.length + partition.meta.slack
    history = np.zeros(length, BEHAVIOR)
    history["ts"] = _START_MS + np.arange(length) * _STEP_MS
    for number in track(range(first, last), "full histories", console=console, transient=True):
        items = rng.integers(0, _ITEMS, length)
        history["item"], history["category"] = spread_keys(items + 1), 1 + items % _CATEGORIES
        partition.sequences.append(f"user-{number}", history)
        if number % _COMMIT == _COMMIT - 1:
            partition.commit({})
    partition.commit({})
    partition.close()
    return sum(file.stat().st_size for file in directory.iterdir())


def copy_state(full: Path, path: Path, offsets: Mapping[str, int]) -> None:
    """Copy a state with hard links, as one that has read topics up to some offsets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partition = Partition.open(full, cache_bytes=_SMALL_CACHE)
    partition.copy(path)
    partition.close()
    partition = Partition.open(path, cache_bytes=_SMALL_CACHE)
    partition.commit(offsets)
    partition.close()
