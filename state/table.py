"""A table of small values, kept in memory; only changes are written to RocksDB."""

from collections.abc import Iterator
from typing import Any

from rocksdict import Rdict, WriteBatch

from state.layout import PENDING_PREFIX
from state.rocks import reading


class Table:
    """Byte values by string key. Changes stay in memory until `write_into`. One thread at a time.

    Args:
        db: the partition's RocksDB, in raw mode; all entries under `prefix` are read now.
        prefix: what the keys of this table begin with on disk; no other key may begin with it.
    """

    def __init__(self, db: Rdict, *, prefix: bytes = PENDING_PREFIX) -> None:
        self._prefix = prefix
        self._values: dict[str, bytes] = {}
        self._stored: dict[str, bool] = {}
        """Changed key -> whether it is on disk: one that came and went between two writes costs none."""
        # An iterator keeps a closed database open and locked; this one ends with the constructor.
        with reading(db):
            entries: Any = db.iter()
            entries.seek(prefix)
            while entries.valid() and (key := entries.key()).startswith(prefix):
                self._values[key[len(prefix) :].decode()] = entries.value()
                entries.next()
            entries.status()  # an iterator also ends, and says nothing, at what it cannot read

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> bytes | None:
        """Return the value, or None."""
        return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Set a value."""
        self._stored.setdefault(key, key in self._values)
        self._values[key] = value

    def delete(self, key: str) -> None:
        """Remove a value; an absent one is fine."""
        if key in self._values:
            self._stored.setdefault(key, True)
            del self._values[key]

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Iterate over keys and values as they are now; the table may change meanwhile."""
        return iter(list(self._values.items()))

    def write_into(self, batch: WriteBatch) -> None:
        """Put all that changed since the last call into a batch, which must be written."""
        for key, stored in self._stored.items():
            value = self._values.get(key)
            if value is not None:
                batch.put(self._prefix + key.encode(), value)
            elif stored:
                batch.delete(self._prefix + key.encode())
        self._stored.clear()
