"""An update, or the pieces of one that several ranks send, cut into records that fit into Kafka, and put together."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from xxhash import xxh3_128_digest

from model.embedding.shards import SHARDS
from model.errors import UpdateRefused
from model.serialization.update import MAX_BYTES, Number, Update, Version, decode, encode, joined

MAX_PARTS = 65_536
_EPOCHS = 2
_WAITING = 64
"""Most updates of an epoch that wait for pieces: where one is lost, the next base makes up for it."""
_MOST_UNKNOWN = 20
"""Most names of unknown arms that are counted by name: anybody may have written them."""
_ENVELOPE_BYTES = 96
"""More than the fields of a `Part` take, apart from `arm` and `data`."""


class Part(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One record: which update it belongs to, which part of how many it is, and its bytes.

    `total` is the size of the whole encoded update in bytes and `checksum` its XXH3-128.
    """

    arm: str
    kind: Literal["base", "delta"]
    epoch: Number
    version: Number
    part: Annotated[int, Meta(ge=0, lt=MAX_PARTS)]
    parts: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    total: Number
    checksum: bytes
    data: bytes

    @property
    def at(self) -> Version:
        """The state that the update leads to."""
        return Version(self.epoch, self.version)

    @property
    def whole(self) -> tuple[object, ...]:
        """What all parts of one update have in common."""
        return self.kind, self.at, self.parts, self.total, self.checksum


class PiecePart(Part, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The same of one piece of an update that several ranks publish; without these fields it is all of it."""

    piece: Annotated[int, Meta(ge=0, lt=SHARDS)] = 0
    pieces: Annotated[int, Meta(ge=1, le=SHARDS)] = 1


def split(update: Update, max_bytes: int) -> list[bytes]:
    """Encode the update and cut it into records of at most `max_bytes` each.

    Raises:
        ValueError: when `max_bytes` leaves no room beside the header, or would make more than 65,536 records.
    """
    payload = encode(update)
    room = max_bytes - _ENVELOPE_BYTES - len(update.arm.encode())
    if room < 1 or len(payload) > room * MAX_PARTS:
        raise ValueError(
            f"an update of {len(payload)} bytes does not go into records of {max_bytes}: allow larger ones"
        )
    starts = range(0, len(payload), room)
    checksum = xxh3_128_digest(payload)
    number, pieces = update.piece
    parts = (
        Part(
            update.arm,
            update.kind,
            update.epoch,
            update.version,
            part,
            len(starts),
            len(payload),
            checksum,
            payload[start : start + room],
        )
        for part, start in enumerate(starts)
    )
    if pieces == 1:
        return [msgspec.msgpack.encode(part) for part in parts]
    return [
        msgspec.msgpack.encode(PiecePart(**msgspec.structs.asdict(part), piece=number, pieces=pieces)) for part in parts
    ]


@dataclass(slots=True)
class _Half:
    """An update of which some parts are there."""

    whole: tuple[object, ...]
    at: Version
    total: int
    size: int = 0
    data: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Epoch:
    """What is there of the updates of an arm's epoch.

    Attributes:
        halves: piece → the update of which some parts are there.
        waiting: kind, version and number of pieces → piece → update, and its size, of those that lack pieces.
    """

    halves: dict[int, _Half] = field(default_factory=dict)
    waiting: dict[tuple[str, Version, int], dict[int, tuple[Update, int]]] = field(default_factory=dict)

    @property
    def claimed(self) -> int:
        """Bytes that are kept, or promised."""
        pieces = sum(size for found in self.waiting.values() for _, size in found.values())
        return pieces + sum(half.total for half in self.halves.values())


class Assembler:
    """Puts parts together: unfinished updates may claim `max_bytes` in all, and be of two epochs of an arm.

    Within an epoch, a newer update drops an incomplete one, and so does the first part of any update: a trainer sends
    part by part. Epochs do not affect each other: neither an old trainer that still runs nor an incomplete update
    of one that died blocks updates of the present trainer. A third epoch replaces the one that has waited longest.

    Where several ranks publish pieces of an update, each piece is put together by itself, since ranks send at their own
    pace, and the update is complete with the last one: no piece of it is handed out before.

    Args:
        arms: whose updates are wanted; those of others are only counted.
        max_bytes: most that the unfinished updates may hold; also the largest update there can be.
    """

    def __init__(self, arms: Collection[str], *, max_bytes: int = MAX_BYTES) -> None:
        self.dropped = 0
        self.unknown: Counter[str] = Counter()
        """Arm that is not wanted → its updates, by their first parts; of the first few such arms."""
        self._arms = frozenset(arms)
        self._max_bytes = max_bytes
        self._epochs: dict[tuple[str, int], _Epoch] = {}

    def add(self, record: bytes) -> Update | None:
        """Take a record; return the update that it completes, if it does. A repeated part changes nothing.

        Raises:
            UpdateRefused: "malformed" for bytes that are no part or a whole that is not what its parts
                promised, "size" beyond `max_bytes`, "stale" for a part of an older update than the
                incomplete one of its epoch.
        """
        try:
            part = msgspec.msgpack.decode(record, type=PiecePart)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpdateRefused("malformed", f"not a part of an update: {error}") from None
        if part.arm not in self._arms:
            if not part.part and (part.arm in self.unknown or len(self.unknown) < _MOST_UNKNOWN):
                self.unknown[part.arm] += 1
            return None
        if part.piece >= part.pieces:
            raise UpdateRefused("malformed", f"piece {part.piece + 1} of {part.pieces}")
        epoch, half = self._half_of(part)
        if part.part not in half.data:
            if part.part >= part.parts or half.size + len(part.data) > part.total:
                self._drop(part, epoch)
                raise UpdateRefused("malformed", f"part {part.part + 1} of {part.parts} is beyond its update")
            half.data[part.part] = part.data
            half.size += len(part.data)
        if len(half.data) < part.parts:
            return None
        self._forget(part, epoch)
        payload = b"".join(data for _, data in sorted(half.data.items()))
        if xxh3_128_digest(payload) != part.checksum:
            raise UpdateRefused("malformed", "the parts do not add up to the update that was sent")
        update = decode(payload, max_bytes=self._max_bytes)
        if (update.arm, update.kind, update.at) != (part.arm, part.kind, part.at):
            raise UpdateRefused("malformed", "the update is not the one that its parts name")
        return update if part.pieces == 1 else self._join(part, update)

    def _join(self, part: PiecePart, update: Update) -> Update | None:
        """Take a piece; return the update that it completes, if it does."""
        epoch = self._epochs.setdefault((part.arm, part.epoch), _Epoch())
        found = epoch.waiting.setdefault((part.kind, part.at, part.pieces), {})
        found[part.piece] = update, part.total
        if len(found) < part.pieces:
            if len(epoch.waiting) > _WAITING:
                del epoch.waiting[next(iter(epoch.waiting))]
                self.dropped += 1
            return None
        # Each rank sends its pieces in order: what is older and lacks one will not get it any more.
        # A base follows the delta of its version.
        older = [key for key in epoch.waiting if (key[1], key[0] == "base") <= (part.at, part.kind == "base")]
        self.dropped += len(older) - 1
        for key in older:
            del epoch.waiting[key]
        if not epoch.halves and not epoch.waiting:
            del self._epochs[part.arm, part.epoch]
        return joined([piece for _, (piece, _) in sorted(found.items())])

    def _half_of(self, part: PiecePart) -> tuple[_Epoch, _Half]:
        """Return the unfinished update that the part belongs to, begun now if need be, and what its epoch has."""
        key = part.arm, part.epoch
        epoch = self._epochs.pop(key, None) or _Epoch()
        half = epoch.halves.get(part.piece)
        if half is not None and half.whole != part.whole:
            if part.at < half.at and part.part:
                self._epochs[key] = epoch
                raise UpdateRefused("stale", f"a part of {part.arm!r} {part.at}, after one of {half.at}")
            del epoch.halves[part.piece]
            self.dropped += 1
            half = None
        if not epoch.halves and not epoch.waiting:
            others = [other for other in self._epochs if other[0] == part.arm]
            if len(others) >= _EPOCHS:
                gone = self._epochs.pop(others[0])
                self.dropped += len(gone.halves) + len(gone.waiting)
        if half is None:
            claimed = part.total + epoch.claimed + sum(other.claimed for other in self._epochs.values())
            if claimed > self._max_bytes:
                if epoch.halves or epoch.waiting:
                    self._epochs[key] = epoch
                raise UpdateRefused("size", f"unfinished updates of {claimed} bytes, more than {self._max_bytes}")
            half = epoch.halves[part.piece] = _Half(part.whole, part.at, part.total)
        self._epochs[key] = epoch  # the youngest is last
        return epoch, half

    def _drop(self, part: PiecePart, epoch: _Epoch) -> None:
        self._forget(part, epoch)
        self.dropped += 1

    def _forget(self, part: PiecePart, epoch: _Epoch) -> None:
        del epoch.halves[part.piece]
        if not epoch.halves and not epoch.waiting:
            del self._epochs[part.arm, part.epoch]
