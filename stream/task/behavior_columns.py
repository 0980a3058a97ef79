"""Behaviours as columns: decoded whole batches at a time, with a record looked at alone only where it is not plain."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from state.behavior import BehaviorArray
from stream.schema.erasures import Voids
from stream.schema.events import Behavior, decode_behaviors
from stream.schema.record import RecordBatch
from stream.task.plain_behaviors import pack_events, read_plain

_USERS = 100_000
"""Keys of a partition that are remembered to be in their place."""


@dataclass(frozen=True, slots=True)
class BehaviorColumns:
    """Behaviours of one partition in the order of their offsets.

    Attributes:
        topic: where they come from.
        partition: likewise.
        offsets: (N,).
        timestamps: (N,) of their records, ms.
        users: (N,) whose they are.
        packed: (N,) as they are kept, of dtype `BEHAVIOR`.
    """

    topic: str
    partition: int
    offsets: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.int64]
    users: npt.NDArray[np.object_]
    packed: BehaviorArray

    @property
    def times(self) -> npt.NDArray[np.int64]:
        """(N,) when they were done, ms."""
        return self.packed["ts"]

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, begin: int, end: int) -> Self:
        """Return those from place `begin` to `end - 1`, without copying."""
        return self._at(slice(begin, end))

    def kept(self, voids: Voids) -> Self:
        """Return those that are not void, as of users who were erased."""
        if voids.by_user.keys().isdisjoint(self.users.tolist()):
            return self
        where = zip(self.users.tolist(), self.offsets.tolist(), strict=True)
        return self._at(np.array([not voids.behavior(user, offset) for user, offset in where]))

    def _at(self, places: slice | npt.NDArray[np.bool_]) -> Self:
        columns = self.offsets[places], self.timestamps[places], self.users[places], self.packed[places]
        return type(self)(self.topic, self.partition, *columns)


class ColumnDecoder:
    """Decodes behaviours without features in batches.

    It takes what `RecordDecoder` would take as it is, and leaves everything else to it: what is refused, what is said
    in an unusual way, and what is no behaviour. Each record is decoded for itself, so none can reach into another.

    Args:
        place_of: says in which partition a key belongs.
        max_future_ms: how far `ts` may be ahead of the record's timestamp.
        note: told the `ts` of those that it takes.
    """

    def __init__(
        self, place_of: Callable[[bytes], int], *, max_future_ms: float, note: Callable[[npt.NDArray[np.int64]], None]
    ) -> None:
        self._place_of = place_of
        self._max_future_ms = max_future_ms
        self._note = note
        self._known: defaultdict[int, dict[bytes | None, str]] = defaultdict(dict)
        """Partition → key → user, of keys that belong there."""

    def decode(self, batch: RecordBatch) -> Iterator[BehaviorColumns | int]:
        """Yield what a batch says, in its order: behaviours as columns, or the place of one to be looked at alone."""
        known = self._known[batch.partition]
        found = list(map(known.get, batch.keys))
        packed, users = _read(batch, found)
        times, timestamps = packed["ts"].copy(), np.array(batch.timestamps, np.int64)
        good = times <= timestamps + self._max_future_ms
        self._check_places(batch, users, found, good)
        columns = BehaviorColumns(
            batch.topic,
            batch.partition,
            np.array(batch.offsets, np.int64),
            timestamps,
            np.array(users, np.object_),
            packed,
        )
        if good.all():
            self._note(times)
            yield columns
            return
        self._note(times[good])
        begin = 0
        for place in np.flatnonzero(~good).tolist():
            if begin < place:
                yield columns.part(begin, place)
            yield place
            begin = place + 1
        if begin < len(columns):
            yield columns.part(begin, len(columns))

    def _check_places(
        self, batch: RecordBatch, users: Sequence[str], found: Sequence[str | None], good: npt.NDArray[np.bool_]
    ) -> None:
        """Unset `good` of records whose key is not their user's, or belongs elsewhere.

        Args:
            batch: the records.
            users: (N,) whose they are.
            found: (N,) whom their keys name, where that is known already.
            good: (N,) is changed.
        """
        if found == users:
            return
        known = self._known[batch.partition]
        if len(known) > _USERS:
            known.clear()
        others = [place for place, (a, b) in enumerate(zip(found, users, strict=True)) if a != b]
        for place in others:
            key, user = batch.keys[place], users[place]
            if user and key == user.encode() and self._place_of(key) == batch.partition:
                known[key] = user
            else:
                good[place] = False


def _read(batch: RecordBatch, found: Sequence[str | None]) -> tuple[BehaviorArray, list[str]]:
    """Return what the values of a batch say, and whose they are: "", which nobody is, for one to be looked at alone."""
    packed, plain = read_plain(batch.values, batch.keys)
    users = [user or "" for user in found]
    if None in found:
        for place in [place for place, user in enumerate(found) if user is None and plain[place]]:
            users[place] = (batch.keys[place] or b"").decode()
    if not plain.all():
        others = np.flatnonzero(~plain)
        events = _decode([batch.values[place] for place in others.tolist()])
        packed[others] = pack_events(events)
        for place, event in zip(others.tolist(), events, strict=True):
            users[place] = event.user
    return packed, users


_NOBODY = Behavior("", "", 0)
"""Stands where a record must be looked at alone."""


def _decode(values: Sequence[bytes | None]) -> list[Behavior]:
    """Return the behaviours that values say; `_NOBODY` for one that must be looked at alone."""
    whole = [value or b"" for value in values]
    return decode_behaviors(whole) or [(decode_behaviors([value]) or [_NOBODY])[0] for value in whole]
