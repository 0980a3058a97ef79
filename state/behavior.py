"""One behaviour as a fixed-size binary record, and the keys that stand for string ids.

Strings live outside; inside, an item is a 64-bit key, a category a 32-bit key and an action a 16-bit key, all taken
from XXH3 of the UTF-8 text. Key 0 means "none". Collisions: among ten million items one pair shares a key with
probability 3e-6; among ten thousand categories one pair does with probability 1.2e-2, and is then embedded as one
category.
"""

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

_NAMES = 65_536
"""Categories and actions are few: most keys are known already."""

BEHAVIOR = np.dtype([("item", "<u8"), ("category", "<u4"), ("action", "<u2"), ("ts", "<i8")])
"""A behaviour: 22 packed little-endian bytes. `ts` is milliseconds since the Unix epoch."""

BehaviorArray = npt.NDArray[np.void]
"""A one-dimensional array of dtype `BEHAVIOR`, oldest first; features of callers may follow its fields."""


def item_key(item: str) -> int:
    """Return the 64-bit key of an item id; never 0.

    >>> item_key("apple") == item_key("apple") != item_key("pear")
    True
    """
    return xxh3_64_intdigest(item.encode()) or 1


def item_keys(items: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return the (N,) keys of N item ids.

    >>> item_keys(["apple", "pear"]).tolist() == [item_key("apple"), item_key("pear")]
    True
    """
    keys = np.array(list(map(xxh3_64_intdigest, map(str.encode, items))), np.uint64)
    keys[keys == 0] = 1
    return keys


@lru_cache(maxsize=_NAMES)
def category_key(category: str) -> int:
    """Return the 32-bit key of a category; 0 for the empty string, which means "no category".

    >>> category_key("")
    0
    """
    return (xxh3_64_intdigest(category.encode()) & 0xFFFF_FFFF or 1) if category else 0


@lru_cache(maxsize=_NAMES)
def action_key(action: str) -> int:
    """Return the 16-bit key of an action name; 0 for the empty string."""
    return (xxh3_64_intdigest(action.encode()) & 0xFFFF or 1) if action else 0


pack = Struct("<QIHq").pack
"""Packs (item key, category key, action key, ts in ms) into the 22 bytes of one behaviour."""


def behaviors(rows: list[tuple[int, int, int, int]]) -> BehaviorArray:
    """Pack (item key, category key, action key, ts in ms) rows into an array of dtype `BEHAVIOR`."""
    return np.array(rows, dtype=BEHAVIOR)


def from_bytes(buffer: bytes | bytearray | memoryview, record: np.dtype[np.void] = BEHAVIOR) -> BehaviorArray:
    """Read packed records without copying.

    Args:
        buffer: the records.
        record: `BEHAVIOR`, perhaps with features after it.

    Raises:
        ValueError: when the length is not a multiple of the record's, 22 bytes or more.
    """
    if len(buffer) % record.itemsize:
        raise ValueError(f"{len(buffer)} bytes are not whole behaviours of {record.itemsize} bytes")
    records: np.ndarray[Any, np.dtype[np.void]] = np.frombuffer(buffer, dtype=record)
    return records


def checksum(sequence: BehaviorArray) -> int:
    """Return the XXH3-64 of some behaviours, without the features of callers: two folds may have those in two layouts.

    Args:
        sequence: (L,) behaviours, contiguous.
    """
    if sequence.dtype == BEHAVIOR:
        return xxh3_64_intdigest(sequence.data)
    rows = sequence.view(np.uint8).reshape(len(sequence), sequence.dtype.itemsize)
    return xxh3_64_intdigest(rows[:, : BEHAVIOR.itemsize].tobytes())
