"""The rolling sequences of a partition's users: a cache of hot users over chunks in RocksDB."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, cast

import numpy as np
from rocksdict import Rdict, WriteBatch

from state.behavior import BEHAVIOR, BehaviorArray, checksum
from state.layout import HEAD_SUFFIX, PARTS, Ring, user_prefix
from state.rocks import reading
from state.sequence_buffer import SequenceBuffer, open_parts


class Sequences:
    """Rolling sequences by user; a user's is a pure fold of the records appended to it, in their order.

    Appended records stay in memory until `write_into`. Hot users are kept in memory, the least recently used leaving
    first; users with unwritten records stay whatever `cache_bytes` says. One thread at a time.

    Args:
        db: the partition's RocksDB, in raw mode.
        length: the most records that a read returns.
        slack: a read of an older state is whole as long as no more than `slack` records came since.
        cache_bytes: bound of the memory for users, bytes.
        record: of a behaviour: `BEHAVIOR`, perhaps with features after it.
    """

    def __init__(
        self, db: Rdict, *, length: int, slack: int, cache_bytes: int, record: np.dtype[np.void] = BEHAVIOR
    ) -> None:
        self.length = length
        self.record = record
        """Of a behaviour."""
        self._db = db
        self._ring = Ring.holding(length + slack, record)
        self._suffixes = self._ring.suffixes
        self._parts = self._suffixes[-PARTS:]
        self._limit = cache_bytes
        self._bytes = 0
        self._clean: OrderedDict[str, SequenceBuffer] = OrderedDict()
        self._dirty: dict[str, SequenceBuffer] = {}
        self._erased: set[str] = set()

    @property
    def cached_bytes(self) -> int:
        """Bytes of memory that users take now."""
        return self._bytes

    def append(self, user: str, records: BehaviorArray) -> int:
        """Append records to a user, oldest first; returns the user's running count.

        The work is proportional to the number of records, not to the length of the sequence.

        Args:
            user: the user.
            records: (N,) behaviours of dtype `record`; they are copied.

        Raises:
            ValueError: when `records` has another dtype or more dimensions.
        """
        if records.dtype != self.record or records.ndim != 1:
            raise ValueError(
                f"records of dtype {records.dtype}, {records.ndim} dimensions: give a 1-d array of BEHAVIOR and the"
                f" features of behaviours: {self.record}"
            )
        buffer = self._dirty.get(user) or self._find(user)
        if len(records):
            if user in self._clean:
                self._dirty[user] = self._clean.pop(user)
            self._bytes += buffer.append(records.tobytes())
        self._evict()
        return buffer.count

    def append_packed(self, packed: Mapping[str, bytes | bytearray]) -> None:
        """Append packed records, whole ones of dtype `record`, to many users: user → theirs, oldest first."""
        clean, dirty = self._clean, self._dirty
        for user, data in packed.items():
            if (buffer := dirty.get(user)) is None:
                if (known := clean.pop(user, None)) is None:
                    known = self._find(user)
                    del clean[user]
                dirty[user] = buffer = known
            self._bytes += buffer.append(data)
        self._evict()

    def erase(self, user: str) -> bool:
        """Forget a user's sequence: what is appended later begins anew, at count 0. Says whether there was one."""
        prefix = user_prefix(user)
        buffer = self._dirty.pop(user, None) or self._clean.pop(user, None)
        if buffer is not None:
            self._bytes -= buffer.size
            known = buffer.count > 0
        else:
            with reading(self._db):
                known = self._db.get(prefix + HEAD_SUFFIX) is not None
        if known or user in self._erased:
            # The disk still has the old one until `write_into`, so this one must not leave the memory.
            self._erased.add(user)
            self._dirty[user] = fresh = SequenceBuffer(self._ring, prefix, 0, 0, b"")
            self._bytes += fresh.size
        return known

    def count(self, user: str) -> int:
        """Return how many records the user ever had; 0 for an unknown user."""
        count = self._find(user).count
        self._evict()
        return count

    def read(self, user: str, count: int | None = None) -> BehaviorArray:
        """Return a user's newest `length` records as they stood at running count `count`, oldest first.

        When more than `slack` records came since then, the oldest of these records may be overwritten: what
        is left of them, the newest, is returned; possibly nothing.

        Args:
            user: the user; an unknown one has no records.
            count: an earlier running count; None is now.

        Returns:
            (L,) behaviours, L at most `length`: a read-only view that later appends do not change.

        Raises:
            ValueError: when `count` is negative or greater than the present running count.
        """
        buffer = self._cached(user)
        if buffer is None:
            buffer = self._admit(user, self._scan(user))
        elif not buffer.whole:
            missing = [buffer.prefix + self._ring.suffix(chunk) for chunk in buffer.missing]
            self._bytes += buffer.prepend(self._get(missing))
        stop = buffer.count if count is None else count
        if not 0 <= stop <= buffer.count:
            raise ValueError(f"user {user!r} as of running count {count}: it must lie between 0 and {buffer.count}")
        self._evict()
        return buffer.records(stop - self.length, stop)

    def find(self, user: str, seen: int, wanted: int) -> BehaviorArray | None:
        """Return the sequence that another fold of the same records had at its running count `seen`.

        It is known by its checksum, so what is returned is that sequence, never another one. It mostly lies where
        `seen` says. A fold that began elsewhere, since records were removed before, counts differently: then all that
        the ring keeps is searched.

        Args:
            user: whose.
            seen: the running count of that fold.
            wanted: the `checksum` of its sequence.

        Returns:
            (L,) behaviours as `read` does; None when it is not, or no longer, here.
        """
        length = min(seen, self.length)
        count = self.count(user)
        whole = range(count, self._ring.oldest(count) + length - 1, -1)
        for stop in chain((seen,) if seen in whole else (), whole):
            records = self.read(user, stop)
            found = records[len(records) - length :]
            if checksum(found) == wanted:
                return found
        return None

    def write_into(self, batch: WriteBatch) -> None:
        """Put all that changed since the last call into a batch; write it before anything else is called."""
        for user in self._erased:
            prefix = user_prefix(user)
            for suffix in self._suffixes:
                batch.delete(prefix + suffix)
        self._erased.clear()
        for user, buffer in self._dirty.items():
            if buffer.count:  # else it was erased, and nothing came after
                for key, value in buffer.unsaved():
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
            self._clean[user] = buffer
        self._dirty.clear()
        self._evict()

    def _cached(self, user: str) -> SequenceBuffer | None:
        buffer = self._dirty.get(user)
        if buffer is None and (buffer := self._clean.get(user)) is not None:
            self._clean.move_to_end(user)
        return buffer

    def _find(self, user: str) -> SequenceBuffer:
        """Return a buffer that holds at least the open chunk; the caller evicts."""
        buffer = self._cached(user)
        if buffer is None:
            prefix = user_prefix(user)
            with reading(self._db):
                head = self._db.get(prefix + HEAD_SUFFIX)
            parts = self._get(
                [prefix + suffix for suffix in self._parts[: open_parts(self._ring, head)]] if head else []
            )
            buffer = self._admit(user, SequenceBuffer.from_disk(self._ring, prefix, head, parts))
        return buffer

    def _get(self, keys: list[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with reading(self._db):
            return cast("list[bytes | None]", self._db.get(cast("list[Any]", keys)))

    def _scan(self, user: str) -> SequenceBuffer:
        """Read all that the disk has of a user; the values lie side by side, so one pass costs less than many gets."""
        prefix = user_prefix(user)
        last = prefix + self._suffixes[-1]
        found: dict[bytes, bytes | None] = {}
        with reading(self._db):
            values: Iterator[tuple[Any, Any]] = self._db.items(from_key=prefix + HEAD_SUFFIX)
            for key, value in values:
                if key > last:
                    break
                # Between these may lie keys of users whose names are longer; no suffix is as long as theirs then.
                found[key[len(prefix) :]] = value
            if HEAD_SUFFIX not in found:
                # An iterator also ends, and says nothing, at what it cannot read; this raises then.
                found[HEAD_SUFFIX] = self._db.get(prefix + HEAD_SUFFIX)
        head, *others = (found.get(suffix) for suffix in self._suffixes)
        slots, parts = others[: self._ring.chunks], others[self._ring.chunks :]
        return SequenceBuffer.from_disk(self._ring, prefix, head, parts, slots)

    def _admit(self, user: str, buffer: SequenceBuffer) -> SequenceBuffer:
        self._clean[user] = buffer
        self._bytes += buffer.size
        return buffer

    def _evict(self) -> None:
        while self._bytes > self._limit and self._clean:
            self._bytes -= self._clean.popitem(last=False)[1].size
