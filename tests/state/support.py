"""Records, and what is on disk, for the tests of the state."""

from pathlib import Path
from typing import Any

import numpy as np
from rocksdict import Options, Rdict

from state.behavior import BEHAVIOR, BehaviorArray
from state.records import Record, Records, fields_of, missing


def records(start: int, stop: int) -> BehaviorArray:
    """Return records number `start` to `stop - 1` of an endless series without repetition."""
    number = np.arange(start, stop, dtype=np.uint64)
    array = np.zeros(len(number), dtype=BEHAVIOR)
    array["item"] = (number + np.uint64(1)) * np.uint64(0x9E37_79B9_7F4A_7C15)  # odd, so a bijection
    array["category"] = number % 7
    array["action"] = number % 3
    array["ts"] = 1_700_000_000_000 + np.arange(start, stop)
    return array


def dump(path: Path) -> dict[bytes, bytes]:
    """Return all keys and values of a closed partition."""
    db = Rdict(str(path), Options(raw_mode=True))
    entries: Any = db.items()
    found = dict(entries)
    del entries
    db.close()
    return found


def drawn(record: Record, start: int, stop: int) -> Records:
    """Return `records` with features, each a pure function of the record's number and the feature's name."""
    array = missing(stop - start, record)
    numbers = np.arange(start, stop)[:, None]
    if "item" in (record.names or ()):
        for name in BEHAVIOR.names or ():
            array[name] = records(start, stop)[name]
    for name, _, size in fields_of(record):
        array[name] = numbers * 8 + np.arange(size) + ord(name[0])
    return array
