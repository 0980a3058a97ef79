"""Impressions joined with clicks: labels at once for clicks, at the window's end for the rest. Knows no Kafka.

Every (request, item) of the shown items is labelled once: positive when its click arrives, negative when the
attribution window closes by event time. With early labels, what is not clicked a short time after its impression is
negative to learn from already; a click may still follow. What is counted stays as it is: once, when it is final.

What was answered and not shown can be withdrawn while its window is open: it gets no labels, and clicks on it are
counted only.

A click may arrive before its impression was scored, and may prove that a candidate was seen which was not among the
`slots` best. A click that finds no impression within the window is refused. A request is known by its user and id
together: the requests of two users never meet, whatever their ids.
"""

import heapq
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from stream.schema.erasures import Voids
from stream.schema.events import Click, RequestKey, SequenceName, Team
from stream.schema.record import Record, RefusedRecord

_EVENT_TIME = "t"
_IMPRESSION = "i"
_CLICKS = "c"
"""What the keys of the table begin with; `RequestKey.text` follows."""
_MOST_EARLY = 1000

Use = Literal["learn", "count", "both"]
"""What a label is for: to be learned from (a sample), to be counted (an outcome), or both."""


class PendingImpression(Struct):
    """A scored impression whose window is open. The lists have one entry a candidate, in the impression's order.

    `sequence` is as in `Sample`, `ranks` the place of each candidate in the answer (0 is the best), `clicked` 1 where a
    click came; `numbers`, `layout`, `context` and `attributes` are as in `Sample`, of all candidates. `opened` is the
    event time from which its window runs, `teams` as in `Score`. `learned` says that what was not clicked was handed
    out to learn from before the window's end, `withdrawn` that the answer was not shown. `propensity` is as
    in `Outcome`.
    """

    request_id: str
    user: str
    arm: str
    ts: int
    epoch: int
    version: int
    slots: int
    items: list[str]
    categories: list[int]
    probabilities: list[float]
    ranks: list[int]
    clicked: bytearray
    sequence: SequenceName = SequenceName()
    opened: int = 0
    teams: list[Team] = []
    numbers: bytes = b""
    learned: bool = False
    layout: str = ""
    context: bytes = b""
    attributes: bytes = b""
    withdrawn: bool = False
    propensity: float = 0.0

    @property
    def request(self) -> RequestKey:
        """The request's identity."""
        return RequestKey(self.user, self.request_id)


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
    use: Use = "both"


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
        learn_ms: early labels: how long after its impression, in event time, a shown item without a click is negative
            to learn from; None to wait for the window's end.
    """

    def __init__(
        self, table: PendingTable, *, window_ms: int, lateness_ms: int = 0, learn_ms: int | None = None
    ) -> None:
        self._table = table
        self._window = window_ms
        self._keep = window_ms + lateness_ms
        self._learn = learn_ms
        self._open: dict[RequestKey, PendingImpression] = {}
        self._early: dict[RequestKey, list[EarlyClick]] = {}
        self._changed: set[RequestKey] = set()
        self._deadlines: list[tuple[int, RequestKey]] = []
        self.event_time = 0
        """The newest event time so far, ms."""
        self._saved_time = 0
        self.duplicate_clicks = 0
        self.duplicate_impressions = 0
        """Impressions that came again while their request was open."""
        self.conflicting_impressions = 0
        """Impressions with other candidates than those of their request, which was open: they are not joined."""
        self.withdrawn = 0
        """Requests whose answer was not shown."""
        self.withdrawn_late = 0
        """Those of them of which something was learned before that was known."""
        self.withdrawn_unknown = 0
        """Withdrawals of requests that were not open."""
        self.clicks_withdrawn = 0
        """Clicks on what was withdrawn."""
        self._load()

    def __len__(self) -> int:
        """Return the number of open requests."""
        return len(self._open)

    @property
    def unsaved(self) -> bool:
        """Whether a request or a waiting click has changed since the last `save`."""
        return bool(self._changed)

    @property
    def waiting(self) -> bool:
        """Whether anything waits for event time to go on: an open request, or a click without one."""
        return bool(self._open or self._early)

    def impression(self, pending: PendingImpression) -> Iterator[LabelledItems | RefusedRecord]:
        """Open a scored request; yields what the clicks that were there before it come to.

        A request that is open already stays as it was first answered, and is counted.
        """
        request = pending.request
        if (known := self._open.get(request)) is not None:
            if known.items == pending.items:
                self.duplicate_impressions += 1
            else:
                self.conflicting_impressions += 1
            if pending.withdrawn:
                self.withdraw(request)
            return
        self.withdrawn += pending.withdrawn
        # An impression whose clock is behind must not find its window closed before it began.
        pending.opened = max(pending.ts, self.event_time)
        self._open[request] = pending
        self._changed.add(request)
        self._schedule_impression(pending)
        for waiting in self._early.pop(request, ()):
            yield from self.click(waiting.click, waiting.origin)

    def click(self, click: Click, origin: Record) -> Iterator[LabelledItems | RefusedRecord]:
        """Take a click; yields a positive label, or why it is refused, or nothing when it waits or repeats."""
        request = click.request
        pending = self._open.get(request)
        if pending is None:
            early = self._early.setdefault(request, [])
            if len(early) >= _MOST_EARLY:
                yield RefusedRecord(origin, f"more than {_MOST_EARLY} clicks wait for {_words(request)}")
                return
            opened = max(click.ts, self.event_time, early[-1].opened if early else 0)
            early.append(EarlyClick(click, origin, opened))
            self._changed.add(request)
            self._schedule(opened, request)
        elif pending.withdrawn:
            self.clicks_withdrawn += 1
        elif click.item not in pending.items:
            yield RefusedRecord(origin, f"item {click.item!r} was no candidate of {_words(request)}")
        elif click.ts > pending.ts + self._window:
            yield RefusedRecord(
                origin, f"{click.ts - pending.ts} ms after its impression; the window is {self._window} ms"
            )
        elif pending.clicked[index := pending.items.index(click.item)]:
            self.duplicate_clicks += 1
        else:
            pending.clicked[index] = 1
            self._changed.add(request)
            yield LabelledItems(pending, [index], 1, origin.timestamp)

    def withdraw(self, request: RequestKey) -> None:
        """Give no labels to what a request was answered, and was not shown."""
        pending = self._open.get(request)
        if pending is None:
            self.withdrawn_unknown += 1
        elif not pending.withdrawn:
            pending.withdrawn = True
            self._changed.add(request)
            self.withdrawn += 1
            self.withdrawn_late += pending.learned or any(pending.clicked)

    def advance(self, event_time: int) -> Iterator[LabelledItems | RefusedRecord]:
        """Move event time (ms) on; yields the negatives that are due, and clicks that found no impression."""
        self.event_time = max(self.event_time, event_time)
        while self._deadlines and self._deadlines[0][0] < self.event_time:
            _, request = heapq.heappop(self._deadlines)
            pending = self._open.get(request)
            if pending is not None and self._is_over(pending.opened):
                del self._open[request]
                self._changed.add(request)
                if not pending.withdrawn and (unclicked := _unclicked(pending)):
                    yield LabelledItems(pending, unclicked, 0, 0, "count" if pending.learned else "both")
            elif pending is not None and self._is_to_learn(pending) and (unclicked := _unclicked(pending)):
                pending.learned = True
                self._changed.add(request)
                yield LabelledItems(pending, unclicked, 0, 0, "learn")
            early = self._early.get(request)
            if early is not None and self._is_over(early[-1].opened):
                del self._early[request]
                self._changed.add(request)
                reason = (
                    f"no open impression with request_id {request.request_id!r} of user {request.user!r} in its window"
                )
                yield from (RefusedRecord(waiting.origin, reason) for waiting in early)

    def erase(self, voids: Voids, users: Collection[str]) -> None:
        """Drop what is void of users: open requests, and clicks that wait."""
        for request in [each for each in self._open if each.user in users]:
            if voids.answer(request.user, self._open[request].sequence.read_to):
                del self._open[request]
                self._changed.add(request)
        for request in [each for each in self._early if each.user in users]:
            waiting = self._early.pop(request)
            if left := [each for each in waiting if not voids.click(request.user, each.origin.offset)]:
                self._early[request] = left
            self._changed.add(request)

    def save(self) -> None:
        """Bring the table up to date with every change since the last call."""
        if self.event_time != self._saved_time:
            self._saved_time = self.event_time
            self._table.put(_EVENT_TIME, str(self.event_time).encode())
        for request in self._changed:
            if pending := self._open.get(request):
                self._table.put(_IMPRESSION + request.text, _encode(pending))
            else:
                self._table.delete(_IMPRESSION + request.text)
            if early := self._early.get(request):
                self._table.put(_CLICKS + request.text, _encode(early))
            else:
                self._table.delete(_CLICKS + request.text)
        self._changed.clear()

    def _load(self) -> None:
        """Take up what the table has.

        Entries of earlier versions lie under the request id alone, and clicks of several users may share one. What they
        hold names the user; the next `save` moves them.
        """
        for key, value in self._table.items():
            if key == _EVENT_TIME:
                self.event_time = int(value)
                continue
            requests: set[RequestKey] = set()
            if key.startswith(_IMPRESSION):
                pending = _decode_pending(value)
                requests.add(pending.request)
                self._open[pending.request] = pending
                self._schedule_impression(pending)
            else:
                for waiting in _decode_early(value):
                    request = waiting.click.request
                    requests.add(request)
                    self._early.setdefault(request, []).append(waiting)
                    self._schedule(waiting.opened, request)
            if {key[1:]} != {request.text for request in requests}:
                self._table.delete(key)
                self._changed |= requests

    def _is_over(self, opened: int) -> bool:
        return opened + self._keep < self.event_time

    def _is_to_learn(self, pending: PendingImpression) -> bool:
        waits = not pending.learned and not pending.withdrawn
        return self._learn is not None and waits and pending.opened + self._learn < self.event_time

    def _schedule(self, opened: int, request: RequestKey) -> None:
        heapq.heappush(self._deadlines, (opened + self._keep, request))

    def _schedule_impression(self, pending: PendingImpression) -> None:
        self._schedule(pending.opened, pending.request)
        if self._learn is not None and not pending.learned:
            heapq.heappush(self._deadlines, (pending.opened + self._learn, pending.request))


def _unclicked(pending: PendingImpression) -> list[int]:
    """Return the shown candidates that no click has come for."""
    shown = (index for index, rank in enumerate(pending.ranks) if rank < pending.slots)
    return [index for index in shown if not pending.clicked[index]]


def _words(request: RequestKey) -> str:
    return f"request {request.request_id!r} of user {request.user!r}"


_encode = msgspec.msgpack.Encoder().encode
_decode_pending = msgspec.msgpack.Decoder(PendingImpression).decode
_decode_early = msgspec.msgpack.Decoder(list[EarlyClick]).decode
