"""Brings the behaviours of a partition into another layout, where it lies; a crash on the way loses nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from rocksdict import Rdict, WriteBatch

from state.layout import CONVERSION_KEY, COUNT_BYTES, HEAD_SUFFIX, SEQUENCE_PREFIX
from state.records import Fields, Record, converted, record_of
from state.rocks import reading

_BATCH_BYTES = 4 << 20


class _Progress(Struct, frozen=True):
    """`to`: the layout that is converted to. `after`: the last key that is done, as hex; empty at the beginning."""

    to: Fields
    after: str


def unfinished(db: Rdict) -> Fields | None:
    """Return the layout to which a conversion was begun that did not end; None when there is none."""
    with reading(db):
        stored: bytes | None = db.get(CONVERSION_KEY)
    return None if stored is None else msgspec.json.decode(stored, type=_Progress).to


def convert_behaviors(
    db: Rdict,
    before: Fields,
    to: Fields,
    *,
    finish: Callable[[WriteBatch], None],
) -> int:
    """Convert all behaviours from one layout to another; returns how many values were rewritten.

    Args:
        db: the partition's RocksDB.
        before: the fields of features that records have.
        to: those that they shall have; the same as before a crash in between.
        finish: puts into the last batch that it is done.
    """
    old, new = (record_of(fields, of_behavior=True) for fields in (before, to))
    with reading(db):
        stored: bytes | None = db.get(CONVERSION_KEY)
    after = b"" if stored is None else bytes.fromhex(msgspec.json.decode(stored, type=_Progress).after)
    batch, size, done = WriteBatch(raw_mode=True), 0, 0
    for key, value in _values(db, after):
        batch.put(key, _converted(key, value, old, new))
        done, size = done + 1, size + len(value)
        if size >= _BATCH_BYTES:
            batch.put(CONVERSION_KEY, msgspec.json.encode(_Progress(to, key.hex())))
            db.write(batch)
            batch, size = WriteBatch(raw_mode=True), 0
    batch.delete(CONVERSION_KEY)
    finish(batch)
    db.write(batch)
    return done


def _values(db: Rdict, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    with reading(db):
        entries: Any = db.iter()
        entries.seek(after or SEQUENCE_PREFIX)
        while entries.valid() and (key := entries.key()).startswith(SEQUENCE_PREFIX):
            if key > after:
                yield key, entries.value()
            entries.next()
        entries.status()  # an iterator also ends, and says nothing, at what it cannot read


def _converted(key: bytes, value: bytes, old: Record, new: Record) -> bytes:
    head = value[:COUNT_BYTES] if key.endswith(HEAD_SUFFIX) else b""
    return head + converted(np.frombuffer(value[len(head) :], old), new).tobytes()
