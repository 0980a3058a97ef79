"""What erases a user: a marker in `behaviors`, and a record of `erasures` that names where the marker lies.

The marker is the cut. Whoever folds the partition of `behaviors` begins the user anew when it comes to it, so all folds
agree, whenever they hear of the erasure. What lies before it, and what was answered by reading no further, is void.
The record in `erasures` is compacted and kept: with it the cut is known to those who have not come to the marker yet,
to those who do not read `behaviors`, and to whoever begins with a state from before it.
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from stream.schema.events import DECODE_ERRORS, Id, Millis, Natural, encode_json
from stream.schema.position import LogIdentity


class EraseMarker(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A record of `behaviors`, JSON, with these two fields and no other: all that `user` did before it is void."""

    user: Id
    event: Literal["erase"]

    @property
    def ts(self) -> Literal[-1]:
        """Older than all events: it moves no event time and waits for none."""
        return -1


class Cut(Struct, frozen=True):
    """A position in the user's partition of a topic.

    Attributes:
        offset: what lies before it is void.
        topic_id: of the topic that it is an offset of; empty where the broker has none.
    """

    offset: Natural
    topic_id: str = ""

    def within(self, log: LogIdentity) -> int:
        """Return the offset, -1 in a topic that was recreated since: that holds nothing from before."""
        recreated = self.topic_id and log.topic_id and self.topic_id != log.topic_id
        return -1 if recreated else self.offset


class Erasure(Struct, frozen=True, kw_only=True):
    """A record of `erasures`, JSON. The newest one of a user holds.

    Attributes:
        user: who is erased.
        behaviors: where the marker lies.
        clicks: where `clicks` ended when it was written.
        at: when that was, ms since the epoch.
    """

    user: Annotated[str, Meta(min_length=1, max_length=256)]
    behaviors: Cut
    clicks: Cut
    at: Millis


class Void(NamedTuple):
    """What is void of a user.

    Attributes:
        behaviors: behaviours below this offset, and what was answered by reading no further than to it; -1 for none.
        clicks: clicks below this offset.
    """

    behaviors: int = -1
    clicks: int = -1

    def joined(self, other: "Void") -> "Void":
        """Return what is void by either."""
        return Void(max(self.behaviors, other.behaviors), max(self.clicks, other.clicks))


NOTHING = Void()


class Erased(NamedTuple):
    """An erasure as it was read: whose, what is void, when it was asked for (ms), and its offset in `erasures`."""

    user: str
    void: Void
    at: int
    offset: int


class ErasureLog:
    """The erasures of one partition in their order. One thread adds; others take what is new to them."""

    def __init__(self) -> None:
        self._all: list[Erased] = []

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all)

    def add(self, erased: Erased) -> None:
        """Add one."""
        self._all.append(erased)

    def since(self, taken: int) -> list[Erased]:
        """Return those behind the first `taken`."""
        return self._all[taken:]

    def position(self, taken: int) -> int:
        """Return the offset of `erasures` behind the first `taken`."""
        return self._all[taken - 1].offset + 1 if taken else 0

    def newest_before(self, before_ms: int) -> int:
        """Return when the newest was asked for of those that are older than a time (ms); 0 for none."""
        return max((each.at for each in self._all if each.at < before_ms), default=0)

    def due(self, before_ms: int) -> int:
        """Return the offset of `erasures` behind the last one that was asked for before a time (ms); 0 for none."""
        return next((each.offset + 1 for each in reversed(self._all) if each.at < before_ms), 0)


class Erasures:
    """The erasures of all partitions."""

    def __init__(self) -> None:
        self._logs: dict[int, ErasureLog] = {}

    def of(self, number: int) -> ErasureLog:
        """Return those of a partition."""
        return self._logs.setdefault(number, ErasureLog())

    def newest_before(self, before_ms: int) -> int:
        """Return when the newest erasure of those was asked for that are older than a time (ms); 0 for none."""
        return max((log.newest_before(before_ms) for log in list(self._logs.values())), default=0)

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, list(self._logs.values())))


class Voids:
    """What is void in one partition, as far as its reader has heard: of the record, or of the marker, or of both.

    Args:
        log: the partition's erasures.
    """

    def __init__(self, log: ErasureLog) -> None:
        self._log = log
        self._taken = 0
        self.by_user: dict[str, Void] = {}
        """User → what is void; empty as long as nobody was erased, which is all that folding looks at."""

    @property
    def position(self) -> int:
        """The offset of `erasures` behind those that were taken."""
        return self._log.position(self._taken)

    @property
    def waiting(self) -> bool:
        """Whether there are erasures that were not taken."""
        return len(self._log) != self._taken

    def take(self) -> list[Erased]:
        """Return the erasures that are new."""
        new = self._log.since(self._taken)
        self._taken += len(new)
        for erased in new:
            self.by_user[erased.user] = erased.void.joined(self.by_user.get(erased.user, NOTHING))
        return new

    def mark(self, user: str, offset: int) -> None:
        """Take note of a marker at this offset of `behaviors`."""
        self.by_user[user] = Void(offset).joined(self.by_user.get(user, NOTHING))

    def behavior(self, user: str, offset: int) -> bool:
        """Say whether a behaviour at this offset is void."""
        return offset < self.by_user.get(user, NOTHING).behaviors

    def answer(self, user: str, read_to: int) -> bool:
        """Say whether an answer is void that was given when `behaviors` were folded up to this offset."""
        void = self.by_user.get(user)
        return void is not None and read_to <= void.behaviors

    def click(self, user: str, offset: int) -> bool:
        """Say whether a click at this offset is void."""
        return offset < self.by_user.get(user, NOTHING).clicks


def encode_marker(user: str) -> bytes:
    """Return the value of the record of `behaviors` that erases a user."""
    return encode_json(EraseMarker(user, "erase"))


def decode_marker(value: bytes) -> EraseMarker | None:
    """Return the marker that a record of `behaviors` is; None when it is none."""
    try:
        return _decode_marker(value)
    except DECODE_ERRORS:
        return None


encode_erasure = encode_json
decode_erasure = msgspec.json.Decoder(Erasure).decode
_decode_marker = msgspec.json.Decoder(EraseMarker).decode
