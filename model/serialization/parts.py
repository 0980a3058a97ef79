"""An update cut into records that fit into Kafka, and put together again."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from xxhash import xxh3_128_digest

from model.errors import UpdateRefused
from model.serialization.update import MAX_BYTES, Number, Update, Version, decode, encode

MAX_PARTS = 65_536
_EPOCHS = 2
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
    return [
        msgspec.msgpack.encode(
            Part(
                update.arm,
                update.kind,
                update.epoch,
                update.version,
                number,
                len(starts),
                len(payload),
                checksum,
                payload[start : start + room],
            )
        )
        for number, start in enumerate(starts)
    ]


@dataclass(slots=True)
class _Half:
    """An update of which some parts are there."""

    whole: tuple[object, ...]
    at: Version
    total: int
    size: int = 0
    data: dict[int, bytes] = field(default_factory=dict)


class Assembler:
    """Puts parts together: unfinished updates may claim `max_bytes` in all, and be of two epochs of an arm.

    Within an epoch, a newer update drops an incomplete one, and so does the first part of any update: a trainer sends
    part by part. Epochs do not affect each other: neither an old trainer that still runs nor an incomplete update
    of one that died blocks updates of the present trainer. A third epoch replaces the one that has waited longest.

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
        self._halves: dict[tuple[str, int], _Half] = {}

    def add(self, record: bytes) -> Update | None:
        """Take a record; return the update that it completes, if it does. A repeated part changes nothing.

        Raises:
            UpdateRefused: "malformed" for bytes that are no part or a whole that is not what its parts
                promised, "size" beyond `max_bytes`, "stale" for a part of an older update than the
                incomplete one of its epoch.
        """
        try:
            part = msgspec.msgpack.decode(record, type=Part)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpdateRefused("malformed", f"not a part of an update: {error}") from None
        if part.arm not in self._arms:
            if not part.part and (part.arm in self.unknown or len(self.unknown) < _MOST_UNKNOWN):
                self.unknown[part.arm] += 1
            return None
        half = self._half_of(part)
        if part.part not in half.data:
            if part.part >= part.parts or half.size + len(part.data) > part.total:
                self._drop(part.arm, part.epoch)
                raise UpdateRefused("malformed", f"part {part.part + 1} of {part.parts} is beyond its update")
            half.data[part.part] = part.data
            half.size += len(part.data)
        if len(half.data) < part.parts:
            return None
        del self._halves[part.arm, part.epoch]
        payload = b"".join(data for _, data in sorted(half.data.items()))
        if xxh3_128_digest(payload) != part.checksum:
            raise UpdateRefused("malformed", "the parts do not add up to the update that was sent")
        update = decode(payload, max_bytes=self._max_bytes)
        if (update.arm, update.kind, update.at) != (part.arm, part.kind, part.at):
            raise UpdateRefused("malformed", "the update is not the one that its parts name")
        return update

    def _half_of(self, part: Part) -> _Half:
        """Return the unfinished update that the part belongs to, begun now if need be."""
        half = self._halves.get((part.arm, part.epoch))
        if half is not None:
            if half.whole == part.whole:
                self._halves[part.arm, part.epoch] = self._halves.pop((part.arm, part.epoch))  # the youngest is last
                return half
            if part.at < half.at and part.part:
                raise UpdateRefused("stale", f"a part of {part.arm!r} {part.at}, after one of {half.at}")
            self._drop(part.arm, part.epoch)
        elif len(epochs := [epoch for arm, epoch in self._halves if arm == part.arm]) >= _EPOCHS:
            self._drop(part.arm, epochs[0])
        claimed = part.total + sum(other.total for other in self._halves.values())
        if claimed > self._max_bytes:
            raise UpdateRefused("size", f"unfinished updates of {claimed} bytes, more than {self._max_bytes}")
        half = self._halves[part.arm, part.epoch] = _Half(part.whole, part.at, part.total)
        return half

    def _drop(self, arm: str, epoch: int) -> None:
        del self._halves[arm, epoch]
        self.dropped += 1
