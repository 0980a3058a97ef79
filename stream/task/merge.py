"""Merges events of co-partitioned topics by time, without reading one topic ahead of another that lags.

Kafka orders records within a partition, not across topics. After a pause a consumer may hold ten minutes of
behaviours and one minute of impressions; folding them all first would leak the future into the model. So an event is
released only when every topic without one in hand is known to be read to its end (the rule of Kafka Streams, KIP-353
and KIP-695), or when one has been waited for long enough.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")


class Run(Protocol):
    """Events of one topic in the order of their arrival, as one."""

    @property
    def times(self) -> npt.NDArray[np.int64]:
        """(N,) the time of each."""

    def part(self, begin: int, end: int) -> Self:
        """Return those from place `begin` to `end - 1`."""


class Merge(Generic[T]):
    """The merge of one partition number over several topics.

    At equal times the topic named first goes first: name the one that must not see the others' effects first. Within a
    topic the order of arrival stays, whatever the times say.

    Args:
        topics: the topics, in order of precedence.
        patience: seconds to wait for a topic that lags and brings nothing, before going on without it.
    """

    def __init__(self, topics: Sequence[str], *, patience: float) -> None:
        self._queues: dict[str, _Queue] = {topic: _Queue() for topic in topics}
        self._patience = patience
        self._stalled_since: float | None = None
        self.forced = 0
        """Events released because patience had run out."""

    def __len__(self) -> int:
        """Return the number of events in hand."""
        return sum(queue.events for queue in self._queues.values())

    def backlog(self, topic: str) -> int:
        """Return the number of events in hand of one topic."""
        return self._queues[topic].events

    def add(self, topic: str, time: int, event: T) -> None:
        """Take an event of a topic, with its time: a whole number of any unit, the same for all."""
        self._queues[topic].put(time, 1, event)

    def add_run(self, topic: str, run: Any) -> None:
        """Take a `Run` of one or more events of a topic; it is released in as few parts as the order allows."""
        times = run.times
        self._queues[topic].put(int(times[0]), len(times), run)

    def pop(self, topic: str) -> T:
        """Take the first event of one topic, out of the order of time; of a run, a part of one event.

        Raises:
            IndexError: when there is none in hand.
        """
        event: T = self._queues[topic].take(math.inf, 1)[1]
        return event

    def drain(self, at_end: Callable[[str], bool], now: float, limit: int, *, strict: bool = False) -> Iterator[T]:
        """Yield up to `limit` events that may be processed, oldest first; those of a run together.

        Args:
            at_end: whether a topic has been read to its end.
            now: a monotonic clock, seconds.
            limit: the most events to yield.
            strict: wait for lagging topics without limit; patience starts over when this ends.
        """
        while limit > 0:
            filled = [queue for queue in self._queues.values() if queue.events]
            if not filled:
                self._stalled_since = None
                return
            if all(queue.events or at_end(topic) for topic, queue in self._queues.items()):
                self._stalled_since = None
                most = limit
            elif self._is_patient(now, strict=strict):
                return
            else:
                self.forced += 1
                most = 1
            queue = min(filled, key=_Queue.head)
            until = _turn_ends(filled, queue)
            while most and queue.events and queue.head() < until:
                taken, event = queue.take(until, most)
                most -= taken
                limit -= taken
                yield event

    def _is_patient(self, now: float, *, strict: bool) -> bool:
        if self._stalled_since is None or strict:
            self._stalled_since = now
        return strict or now - self._stalled_since < self._patience


class _Queue:
    """The events of one topic that are in hand: single ones, and runs with the number of their events."""

    __slots__ = ("_entries", "events")

    def __init__(self) -> None:
        self._entries: deque[tuple[int, int, Any]] = deque()
        self.events = 0

    def head(self) -> int:
        """Return the time of the first event."""
        return self._entries[0][0]

    def put(self, time: int, size: int, event: Any) -> None:
        self._entries.append((time, size, event))
        self.events += size

    def take(self, until: float, most: int) -> tuple[int, Any]:
        """Take the first event; of a run, all of its first events before a time, at least one and up to `most`."""
        _, size, event = self._entries.popleft()
        taken = 1 if size == 1 else min(most, _places_before(event.times, until))
        if taken < size:
            rest = event.part(taken, size)
            self._entries.appendleft((int(rest.times[0]), size - taken, rest))
            event = event.part(0, taken)
        self.events -= taken
        return taken, event


def _places_before(times: npt.NDArray[np.int64], until: float) -> int:
    """Return how many of the first events are before a time; at least one."""
    if until == math.inf:
        return len(times)
    later = times[1:] >= until
    place = int(later.argmax()) if len(later) else 0
    return 1 + (place if len(later) and later[place] else len(later))


def _turn_ends(queues: Sequence[_Queue], chosen: _Queue) -> float:
    """Return the time before which the events of the chosen queue go before the heads of the others."""
    until, later = math.inf, 0
    for queue in queues:
        if queue is chosen:
            later = 1  # at equal times it goes before those that are named after it
        else:
            until = min(until, queue.head() + later)
    return until
