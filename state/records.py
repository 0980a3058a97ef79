"""Records of which the layout can change: packed fields by name, numbers or keys of texts, after those of a behaviour.

A missing number is NaN, a missing text is key 0. Records of one layout are read as records of another by the names of
the fields: what is new is missing, what is gone goes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from state.behavior import BEHAVIOR

NUMBERS, KEYS = "<f4", "<u4"
"""What a field can hold: float32 numbers, or 32-bit keys."""

Fields = list[tuple[str, str, int]]
"""Name, `NUMBERS` or `KEYS`, and how many of them, of each field."""

Records = npt.NDArray[np.void]
"""A one-dimensional structured array."""

Record = np.dtype[np.void]


def record_of(fields: Iterable[tuple[str, str, int]], *, of_behavior: bool = False) -> Record:
    """Return the layout with these fields, after those of `BEHAVIOR` if it is one `of_behavior`.

    Raises:
        ValueError: for two fields of one name, another kind, or no size.
    """
    own: list[tuple[Any, ...]] = []
    for name, kind, size in fields:
        if kind not in (NUMBERS, KEYS) or size < 1:
            raise ValueError(f"field {name!r} of {size} {kind}: neither float32 nor 32-bit keys")
        own.append((name, kind, (size,)))
    return np.dtype([*(BEHAVIOR.descr if of_behavior else []), *own])


def fields_of(record: Record) -> Fields:
    """Return the fields of a layout, without those of `BEHAVIOR`."""
    members = ((name, record[name]) for name in record.names or ())
    return [(name, field.base.str, field.shape[0]) for name, field in members if field.shape]


def missing(count: int, record: Record) -> Records:
    """Return `count` records in which all that can be missing is, and all else is 0."""
    records = np.zeros(count, record)
    for name, kind, _ in fields_of(record):
        if kind == NUMBERS:
            records[name] = np.nan
    return records


def converted(records: Records, record: Record) -> Records:
    """Return records in another layout."""
    if records.dtype == record:
        return records
    result = missing(len(records), record)
    for name in set(records.dtype.names or ()) & set(record.names or ()):
        if records.dtype[name] == record[name]:
            result[name] = records[name]
    return result


def read_records(packed: bytes, record: Record, count: int) -> Records:
    """Return `count` packed records without copying.

    Raises:
        ValueError: when the bytes are not that many.
    """
    if len(packed) != count * record.itemsize:
        raise ValueError(f"{len(packed)} bytes are not {count} records of {record.itemsize} bytes")
    return np.frombuffer(packed, record) if record.itemsize else np.zeros(count, record)
