"""The part of one user's sequence that is in memory, as one contiguous buffer. Pure: knows no RocksDB."""

from collections.abc import Iterator, Sequence

import numpy as np

from state.behavior import BehaviorArray
from state.errors import StateError
from state.layout import CHUNK, COUNT_BYTES, HEAD_SUFFIX, PART, PARTS, Ring

_OVERHEAD = 800
"""Bytes of it besides the records: the object, its views, the key, its place in the cache."""


class SequenceBuffer:
    """Records `first` to `count - 1` of a user, where a record's index is the running count before it.

    Appending writes behind the last record, never into one that is there. Where room lacks, the records move
    to a new buffer, and the views of the old one keep it alive. So a view that was returned never changes.

    Args:
        ring: the ring that the user's chunks lie in.
        prefix: what the user's keys begin with.
        first: index of the first record, a multiple of 64.
        count: the running count, as it is on disk.
        buffer: the records, count − first of them.
        settled: how many records the disk has outside the head, counted from the first ever; a multiple of 16.
    """

    __slots__ = ("_array", "_buffer", "_record", "_ring", "count", "first", "prefix", "settled", "whole")

    def __init__(self, ring: Ring, prefix: bytes, first: int, count: int, buffer: bytes, settled: int = 0) -> None:
        self._ring = ring
        self._record = ring.record.itemsize
        self._buffer: bytes | bytearray = buffer
        self._array: BehaviorArray | None = None
        self.prefix = prefix
        self.first = first
        self.count = count
        self.settled = settled
        """Records that the disk has outside the head."""
        self.whole = first <= ring.oldest(count)
        """True: all that the ring keeps is here. False: `missing` tells what is not."""

    @classmethod
    def from_disk(
        cls,
        ring: Ring,
        prefix: bytes,
        head: bytes | None,
        parts: Sequence[bytes | None] = (),
        slots: Sequence[bytes | None] | None = None,
    ) -> "SequenceBuffer":
        """Read a user's head and the parts of the open chunk, and the slots of the ring when they are given.

        Args:
            ring: the ring that the user's chunks lie in.
            prefix: what the user's keys begin with.
            head: None for a new user.
            parts: at least those that `open_parts` tells.
            slots: one for each chunk of the ring.

        Raises:
            StateError: when they do not fit together.
        """
        if head is None:
            return cls(ring, prefix, 0, 0, b"")
        count, waiting = ring.head_records(head)
        chunks = ring.unroll(slots, count) if slots is not None else []
        first = (count // CHUNK - len(chunks)) * CHUNK
        open_chunk = *parts[: open_parts(ring, head)], head[COUNT_BYTES:]
        data = _join(ring, prefix, (*chunks, *open_chunk), count - first)
        return cls(ring, prefix, first, count, data, count - waiting)

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return len(self._buffer) + _OVERHEAD

    @property
    def missing(self) -> range:
        """The chunks that the ring keeps and that this lacks; they are on disk."""
        return range(self._ring.oldest(self.count) // CHUNK, self.first // CHUNK)

    def append(self, data: bytes | bytearray) -> int:
        """Append packed records; returns by how many bytes the memory grew."""
        begin = (self.count - self.first) * self._record
        end = begin + len(data)
        self.count += len(data) // self._record
        buffer = self._buffer
        if end > len(buffer):
            return self._move(begin, data)
        buffer[begin:end] = data  # type: ignore[index]  # only a bytearray has room beyond the last record
        return 0

    def prepend(self, chunks: Sequence[bytes | None]) -> int:
        """Put the missing chunks before the first record; returns by how many bytes the memory grew.

        Raises:
            StateError: when one is not there.
        """
        before = len(self._buffer)
        live = self._buffer[: (self.count - self.first) * self._record]
        first = self.first - len(chunks) * CHUNK
        self._buffer = _join(self._ring, self.prefix, (*chunks, live), self.count - first)
        self.first = first
        self._array = None
        self.whole = True
        return len(self._buffer) - before

    def records(self, start: int, stop: int) -> BehaviorArray:
        """Return a read-only view of the records `start` to `stop - 1` that the ring keeps."""
        array = self._array
        if array is None:
            view = memoryview(self._buffer).toreadonly()
            array = self._array = np.frombuffer(view, dtype=self._ring.record)
        oldest = self._ring.oldest(self.count)
        first = self.first
        return array[(start if start > oldest else oldest) - first : (stop if stop > oldest else oldest) - first]

    def unsaved(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield the keys and values that bring the disk up to date, and take them as saved; None deletes a key."""
        count, ring, prefix, settled = self.count, self._ring, self.prefix, self.settled
        if settled // PART < count // PART:
            done = count // CHUNK
            for chunk in range(max(settled, ring.oldest(count)) // CHUNK, done):
                yield prefix + ring.suffix(chunk), self._bytes_of(chunk * CHUNK, (chunk + 1) * CHUNK)
            fresh = range(max(settled, done * CHUNK) // PART, count // PART)
            for part in fresh:
                yield prefix + ring.part_suffix(part), self._bytes_of(part * PART, (part + 1) * PART)
            if settled // CHUNK < done:
                for part in range(settled // CHUNK * (PARTS + 1), settled // PART):
                    if part % (PARTS + 1) >= len(fresh):
                        yield prefix + ring.part_suffix(part), None
            self.settled = settled = count // PART * PART
        yield prefix + HEAD_SUFFIX, count.to_bytes(COUNT_BYTES, "little") + self._bytes_of(settled, count)

    def _bytes_of(self, start: int, stop: int) -> bytes:
        begin, end = (start - self.first) * self._record, (stop - self.first) * self._record
        return bytes(self._buffer[begin:end])

    def _move(self, begin: int, data: bytes | bytearray) -> int:
        """Move what the ring still keeps, and the new records, to a larger buffer."""
        old = self._buffer
        oldest = self._ring.oldest(self.count)
        first = max(self.first, oldest)
        cut = (first - self.first) * self._record
        kept = max(0, begin - cut)
        # More may come at once than the ring holds: then nothing old is kept, and of the new only the end.
        fresh = data[cut - begin :] if cut > begin else data
        needed = kept + len(fresh)
        buffer = bytearray(needed + max(needed // self._record // 4, 16) * self._record)
        buffer[:kept] = memoryview(old)[cut : cut + kept]
        buffer[kept:needed] = fresh
        self.first = first
        self.whole = self.whole or first <= oldest
        self._buffer = buffer
        self._array = None
        return len(buffer) - len(old)


def open_parts(ring: Ring, head: bytes) -> int:
    """Return how many parts of the open chunk lie beside a user's head."""
    count, waiting = ring.head_records(head)
    return max(0, count % CHUNK - waiting) // PART


def _join(ring: Ring, prefix: bytes, parts: Sequence[bytes | bytearray | None], records: int) -> bytes:
    there = [part for part in parts if part is not None]
    data = b"".join(there)
    if len(there) < len(parts) or len(data) != records * ring.record.itemsize:
        raise StateError(
            f"the sequence of user {prefix[1:].decode()!r} is damaged: {len(data)} bytes, not {records}"
            f" records of {ring.record.itemsize}. Move the partition's directory away to rebuild its state from Kafka."
        )
    return data
