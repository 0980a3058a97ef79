"""Where the bytes of a partition lie: the keys of its RocksDB and the ring of a user's sequence. Pure.

All keys begin with one byte that tells what they hold:

    m                        format version and parameters (JSON)
    c                        how far records are converted to another layout (JSON); only meanwhile
    o                        topic -> next offset (JSON)
    O                        topic -> what that offset is an offset of (JSON)
    e                        users were erased, and their bytes are not out of the files yet; only meanwhile
    p <key>                  a pending value
    s <user> <0>                     head of a user: running count (u64), then the records of the open part
    s <user> <1 + slot>              a whole chunk of a user, in slot `chunk index % chunks` of the ring
    s <user> <1 + chunks + place>    a whole part of the open chunk, at its place in the chunk

The number after the user is a big-endian u16, all in values is little endian.
Its width is fixed, so no two users share a key, whatever their names are. Records wait in the head until their part
of 16 is whole, and parts until their chunk of 64 is; a chunk is then written, its parts are deleted, and it stays until
the ring comes round. So appending a few records rewrites one value of at most 0.4 KB. What the disk holds is a function
of the records and their number alone, but for heads that format 1 and 2 have written: they hold the whole open chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from state.behavior import BEHAVIOR

META_KEY = b"m"
OFFSETS_KEY = b"o"
ORIGINS_KEY = b"O"
CONVERSION_KEY = b"c"
ERASED_KEY = b"e"
PENDING_PREFIX = b"p"
SEQUENCE_PREFIX = b"s"

CHUNK = 64
"""Records of a chunk."""
PART = 16
"""Records of a part of a chunk."""
PARTS = CHUNK // PART - 1
"""Parts that are written as such: the last one of a chunk makes it whole."""
COUNT_BYTES = 8
_SUFFIX_BYTES = 2
_T = TypeVar("_T")
_MAX_CHUNKS = (1 << 8 * _SUFFIX_BYTES) - 1 - PARTS


@dataclass(frozen=True, slots=True)
class Ring:
    """A ring of `chunks` whole chunks; with the open one it keeps at least the newest `chunks * 64` records.

    What it keeps is a function of the running count alone.
    """

    chunks: int
    record: np.dtype[np.void] = BEHAVIOR
    """`BEHAVIOR`, perhaps with features of callers after it."""

    @classmethod
    def holding(cls, records: int, record: np.dtype[np.void] = BEHAVIOR) -> "Ring":
        """Return the smallest ring that always keeps the newest `records` records.

        Raises:
            ValueError: when that is less than one record or more than the key suffix can number.
        """
        chunks = -(-records // CHUNK)
        if not 1 <= chunks <= _MAX_CHUNKS:
            raise ValueError(f"a ring of {records} records: it must hold 1 to {_MAX_CHUNKS * CHUNK}")
        return cls(chunks, record)

    def oldest(self, count: int) -> int:
        """Return the index of the oldest record that is kept at running count `count`; a multiple of 64."""
        return max(0, count // CHUNK - self.chunks) * CHUNK

    def suffix(self, chunk: int) -> bytes:
        """Return the key suffix of the chunk with records `64 * chunk` to `64 * chunk + 63`."""
        return (1 + chunk % self.chunks).to_bytes(_SUFFIX_BYTES, "big")

    def part_suffix(self, part: int) -> bytes:
        """Return the key suffix of the part with records `16 * part` to `16 * part + 15`."""
        return (1 + self.chunks + part % (PARTS + 1)).to_bytes(_SUFFIX_BYTES, "big")

    @property
    def suffixes(self) -> list[bytes]:
        """All key suffixes in their order: the head's, those of the slots, those of the parts."""
        return [number.to_bytes(_SUFFIX_BYTES, "big") for number in range(1 + self.chunks + PARTS)]

    def head_records(self, head: bytes) -> tuple[int, int]:
        """Return the running count that a user's head tells, and how many records lie in the head."""
        return int.from_bytes(head[:COUNT_BYTES], "little"), (len(head) - COUNT_BYTES) // self.record.itemsize

    def unroll(self, slots: Sequence[_T], count: int) -> list[_T]:
        """Return what the used slots hold at running count `count`, oldest chunk first."""
        done = count // CHUNK
        turn = done % self.chunks if done > self.chunks else 0
        return [*slots[turn:], *slots[:turn]][:done]


HEAD_SUFFIX = bytes(_SUFFIX_BYTES)


def user_prefix(user: str) -> bytes:
    """Return what all keys of a user begin with."""
    return SEQUENCE_PREFIX + user.encode()
