"""Impressions joined with clicks: labels at once for clicks, at the window's end for the rest. Knows no Kafka.

Every (request, item) of the shown items is labelled once: positive when its click arrives, negative when the
attribution window closes by event time. A click may arrive before its impression was scored, and may prove that a
candidate was seen which was not among the `slots` best. A click that finds no impression within the window comes out
as an orphan.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from stream.schema.events import Click, Team
from stream.schema.record import Record

_EVENT_TIME = "t"
_MOST_EARLY = 1000


class PendingImpression(Struct):
    """A scored impression whose window is open. The lists have one entry a candidate, in the impression's order.

    `seen` is the user's running count of behaviours when it was scored, `ranks` the place of each candidate in the
    answer (0 is the best), `clicked` 1 where a click came. `opened` is the event time from which its window runs,
    `teams` as in `Score`.
    """

    request_id: str
    user: str
    arm: str
    ts: int
    epoch: int
    version: int
    seen: int
    slots: int
    items: list[str]
    categories: list[int]
    probabilities: list[float]
    ranks: list[int]
    clicked: bytearray
    opened: int = 0
    teams: list[Team] = []


class EarlyClick(Struct):
    """A click that waits for its impression since event time `opened`, with the record that it came in."""

    click: Click
    origin: Record
    opened: int


@dataclass(frozen=True, slots=True)
class LabelledItems:
    """Candidates of one request that got this label now. `clicked_at`: Kafka timestamp (ms) of the click, 0 if none."""

    pending: PendingImpression
    indices: list[int]
    label: Literal[0, 1]
    clicked_at: int


@dataclass(frozen=True, slots=True)
class UnmatchedClick:
    """A click that cannot be used, and why."""

    origin: Record
    reason: str


class PendingTable(Protocol):
    """Where open requests outlive the process: small byte values by key."""

    def put(self, key: str, value: bytes) -> None:
        """Set a value."""

    def delete(self, key: str) -> None:
        """Remove a value; it may be absent."""

    def items(self) -> Iterable[tuple[str, bytes]]:
        """Return all entries."""


class Joiner:
    """The open requests of one partition.

    Args:
        table: keeps what must outlive the process; read here, written by `save`.
        window_ms: attribution window: a click counts up to this long after its impression, in event time.
        lateness_ms: how much longer a window stays open, for records that come out of order.
    """

    def __init__(self, table: PendingTable, *, window_ms: int, lateness_ms: int = 0) -> None:
        self._table = table
        self._window = window_ms
        self._keep = window_ms + lateness_ms
        self._open: dict[str, PendingImpression] = {}
        self._early: dict[str, list[EarlyClick]] = {}
        self._changed: set[str] = set()
        self._deadlines: list[tuple[int, str]] = []
        self.event_time = 0
        """The newest event time it was told of, ms."""
        self._saved_time = 0
        self.duplicate_clicks = 0
        self.duplicate_impressions = 0
        for key, value in table.items():
            if key == _EVENT_TIME:
                self.event_time = int(value)
            elif key.startswith("i"):
                pending = _decode_pending(value)
                self._open[pending.request_id] = pending
                self._schedule(pending.opened, pending.request_id)
            else:
                early = _decode_early(value)
                self._early[early[0].click.request_id] = early
                self._schedule(early[-1].opened, early[-1].click.request_id)

    def __len__(self) -> int:
        """Return the number of open requests."""
        return len(self._open)

    @property
    def waiting(self) -> bool:
        """Whether anything waits for event time to go on: an open request, or a click without one."""
        return bool(self._open or self._early)

    def impression(self, pending: PendingImpression) -> Iterator[LabelledItems | UnmatchedClick]:
        """Open a scored request; yields the labels of clicks that were there before it.

        A request that is open already stays as it was first answered, and is counted.
        """
        request_id = pending.request_id
        if request_id in self._open:
            self.duplicate_impressions += 1
            return
        # An impression whose clock is behind must not find its window closed before it began.
        pending.opened = max(pending.ts, self.event_time)
        self._open[request_id] = pending
        self._changed.add(request_id)
        self._schedule(pending.opened, request_id)
        for waiting in self._early.pop(request_id, ()):
            yield from self.click(waiting.click, waiting.origin)

    def click(self, click: Click, origin: Record) -> Iterator[LabelledItems | UnmatchedClick]:
        """Take a click; yields a positive label or an orphan, or nothing when it waits or repeats."""
        pending = self._open.get(click.request_id)
        if pending is None:
            early = self._early.setdefault(click.request_id, [])
            if len(early) >= _MOST_EARLY:
                yield UnmatchedClick(origin, f"more than {_MOST_EARLY} clicks wait for request {click.request_id!r}")
                return
            opened = max(click.ts, self.event_time, early[-1].opened if early else 0)
            early.append(EarlyClick(click, origin, opened))
            self._changed.add(click.request_id)
            self._schedule(opened, click.request_id)
        elif click.user != pending.user:
            yield UnmatchedClick(origin, f"request {click.request_id!r} was of another user")
        elif click.item not in pending.items:
            yield UnmatchedClick(origin, f"item {click.item!r} was no candidate of request {click.request_id!r}")
        elif click.ts > pending.ts + self._window:
            yield UnmatchedClick(
                origin, f"{click.ts - pending.ts} ms after its impression; the window is {self._window} ms"
            )
        elif pending.clicked[index := pending.items.index(click.item)]:
            self.duplicate_clicks += 1
        else:
            pending.clicked[index] = 1
            self._changed.add(click.request_id)
            yield LabelledItems(pending, [index], 1, origin.timestamp)

    def advance(self, event_time: int) -> Iterator[LabelledItems | UnmatchedClick]:
        """Move event time (ms) on; yields the negatives of windows that closed, and the clicks nothing claimed."""
        self.event_time = max(self.event_time, event_time)
        while self._deadlines and self._deadlines[0][0] < self.event_time:
            _, request_id = heapq.heappop(self._deadlines)
            pending = self._open.get(request_id)
            if pending is not None and self._is_over(pending.opened):
                del self._open[request_id]
                self._changed.add(request_id)
                shown = (index for index, rank in enumerate(pending.ranks) if rank < pending.slots)
                if unclicked := [index for index in shown if not pending.clicked[index]]:
                    yield LabelledItems(pending, unclicked, 0, 0)
            early = self._early.get(request_id)
            if early is not None and self._is_over(early[-1].opened):
                del self._early[request_id]
                self._changed.add(request_id)
                for waiting in early:
                    yield UnmatchedClick(
                        waiting.origin, f"no open impression with request_id {request_id!r} in its window"
                    )

    def save(self) -> None:
        """Bring the table up to date with every change since the last call."""
        if self.event_time != self._saved_time:
            self._saved_time = self.event_time
            self._table.put(_EVENT_TIME, str(self.event_time).encode())
        for request_id in self._changed:
            if pending := self._open.get(request_id):
                self._table.put("i" + request_id, _encode(pending))
            else:
                self._table.delete("i" + request_id)
            if early := self._early.get(request_id):
                self._table.put("c" + request_id, _encode(early))
            else:
                self._table.delete("c" + request_id)
        self._changed.clear()

    def _is_over(self, opened: int) -> bool:
        return opened + self._keep < self.event_time

    def _schedule(self, opened: int, request_id: str) -> None:
        heapq.heappush(self._deadlines, (opened + self._keep, request_id))


_encode = msgspec.msgpack.Encoder().encode
_decode_pending = msgspec.msgpack.Decoder(PendingImpression).decode
_decode_early = msgspec.msgpack.Decoder(list[EarlyClick]).decode
