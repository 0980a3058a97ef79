"""Records, and what is on disk, for the tests of the state."""

import time
from contextlib import suppress
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


def holds(path: Path, *needles: bytes) -> bool:
    """Return whether any file of a partition, open or closed, holds any of some bytes."""
    for file in path.iterdir():
        with suppress(FileNotFoundError):  # RocksDB has removed it meanwhile
            content = file.read_bytes()
            if any(needle in content for needle in needles):
                return True
    return False


def wait_until_gone(path: Path, *needles: bytes) -> None:
    """Wait until no file of an open partition holds any of some bytes: RocksDB removes files after their last use."""
    deadline = time.monotonic() + 30
    while holds(path, *needles):
        assert time.monotonic() < deadline, f"{needles} are in files of {path} still"
        time.sleep(0.01)


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
