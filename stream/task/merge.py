"""Merges events of co-partitioned topics by time, without reading one topic ahead of another that lags.

Kafka orders records within a partition, not across topics. After a pause a consumer may hold ten minutes of
behaviours and one minute of impressions; folding them all first would leak the future into the model. So an event is
released only when every topic without one in hand is known to be read to its end (the rule of Kafka Streams, KIP-353
and KIP-695), or when one has been waited for long enough.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Merge(Generic[T]):
    """The merge of one partition number over several topics.

    At equal times the topic named first goes first: name the one that must not see the others' effects first. Within a
    topic the order of arrival stays, whatever the times say.

    Args:
        topics: the topics, in order of precedence.
        patience: seconds to wait for a topic that lags and brings nothing, before going on without it.
    """

    def __init__(self, topics: Sequence[str], *, patience: float) -> None:
        self._queues: dict[str, deque[tuple[int, T]]] = {topic: deque() for topic in topics}
        self._patience = patience
        self._stalled_since: float | None = None
        self.forced = 0
        """Events released because patience had run out."""

    def __len__(self) -> int:
        """Return the number of events in hand."""
        return sum(map(len, self._queues.values()))

    def backlog(self, topic: str) -> int:
        """Return the number of events in hand of one topic."""
        return len(self._queues[topic])

    def add(self, topic: str, time: int, event: T) -> None:
        """Take an event of a topic, with its time: a whole number of any unit, the same for all."""
        self._queues[topic].append((time, event))

    def pop(self, topic: str) -> T:
        """Take the first event of one topic, out of the order of time.

        Raises:
            IndexError: when there is none in hand.
        """
        return self._queues[topic].popleft()[1]

    def drain(self, at_end: Callable[[str], bool], now: float, limit: int, *, strict: bool = False) -> Iterator[T]:
        """Yield up to `limit` events that may be processed, oldest first.

        Args:
            at_end: whether a topic has been read to its end.
            now: a monotonic clock, seconds.
            limit: the most events to yield.
            strict: wait for lagging topics without limit; patience starts over when this ends.
        """
        while limit > 0:
            filled = [queue for queue in self._queues.values() if queue]
            if not filled:
                self._stalled_since = None
                return
            if all(queue or at_end(topic) for topic, queue in self._queues.items()):
                self._stalled_since = None
                most = limit
            elif self._is_patient(now, strict=strict):
                return
            else:
                self.forced += 1
                most = 1
            queue = min(filled, key=_head_time)
            until = _turn_ends(filled, queue)
            while most and queue and queue[0][0] < until:
                most -= 1
                limit -= 1
                yield queue.popleft()[1]

    def _is_patient(self, now: float, *, strict: bool) -> bool:
        if self._stalled_since is None or strict:
            self._stalled_since = now
        return strict or now - self._stalled_since < self._patience


def _head_time(queue: deque[tuple[int, T]]) -> int:
    return queue[0][0]


def _turn_ends(queues: Sequence[deque[tuple[int, T]]], chosen: deque[tuple[int, T]]) -> float:
    """Return the time before which the events of the chosen queue go before the heads of the others."""
    until, later = math.inf, 0
    for queue in queues:
        if queue is chosen:
            later = 1  # at equal times it goes before those that are named after it
        else:
            until = min(until, queue[0][0] + later)
    return until
