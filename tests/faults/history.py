"""All records that a system's topics ever had, also those that Kafka has removed since, and what became known of them.

A record that Kafka removed can be counted only by what was read of it before. So whoever removes records, or deletes a
topic, has them kept here first.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

from stream.schema.events import RequestKey, decode_behavior, decode_click, decode_impression
from stream.schema.record import Record
from tests.e2e.harness import Harness

Key = tuple[str, int, int, int]
"""Topic, how often it was recreated before, partition, offset."""
Pair = tuple[RequestKey, str]
"""A request and an item that was shown."""

_TOLD = re.compile(r" records_missing topic=(\S+) partition=(\d+) missing=(\d+) oldest=(\d+)")


@dataclass(frozen=True, slots=True)
class Removed:
    """What Kafka removed before it was surely read, as events.

    Attributes:
        behaviors: user → how many.
        requests: of impressions.
        clicks: (request, item).
        samples: keys of records.
    """

    behaviors: Counter[str] = field(default_factory=Counter)
    requests: frozenset[RequestKey] = frozenset()
    clicks: frozenset[Pair] = frozenset()
    samples: frozenset[Key] = frozenset()


class History:
    """The records of a system's topics. Without a call of `keep` it is what the topics have now.

    Args:
        harness: the system.
    """

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self.topics = harness.topics
        self._kept: dict[Key, Record] = {}
        self._recreated: Counter[str] = Counter()
        self._unread: set[Key] = set()
        self._deleted: set[Key] = set()
        self.unsettled: set[RequestKey] = set()
        """Requests whose users' histories Kafka has cut since: their samples cannot be compared."""

    def keep(self, topic: str) -> list[Key]:
        """Keep what a topic has now; returns the keys."""
        found = self._read(topic)
        self._kept |= found
        return list(found)

    def recreated(self, topic: str, read_to: dict[int, int]) -> None:
        """Take note that a topic was deleted and recreated after `keep`.

        Args:
            topic: its name.
            read_to: partition → the offset up to which its reader had surely read it.
        """
        old = [key for key in self._kept if key[:2] == (topic, self._recreated[topic])]
        self._unread |= {key for key in old if key[3] >= read_to.get(key[2], 0)}
        if topic == self.topics.behaviors:
            self._deleted |= set(old)  # a state of it must be moved away: all of it is gone
        self._recreated[topic] += 1

    def state_lost(self, unread: Set[Key] = frozenset()) -> None:
        """Take note that a worker's state is gone: what it knew of records that Kafka has removed is gone with it.

        Args:
            unread: removed records that nobody has read: a process must say that they are missing.
        """
        for topic in (self.topics.behaviors, self.topics.impressions, self.topics.clicks):
            gone = {key for key in self._kept if key[0] == topic} - self._read(topic).keys() - unread
            if topic != self.topics.behaviors:
                self._unread |= gone
            elif gone:
                self._deleted |= gone
                self.unsettled |= set(self._harness.asked)

    def told(self) -> set[Key]:
        """Return the records of which some process said that they are missing, and which Kafka has removed indeed."""
        topics, told = self.topics, set[Key]()
        read = (topics.behaviors, topics.impressions, topics.clicks, topics.samples)
        for path in (self._harness.directory / "logs").glob("*.log"):
            for topic, partition, oldest, missing in told_gaps(path):
                # What a trainer has missed of the behaviours, the worker may have read.
                if topic in read and not (topic == topics.behaviors and path.name.startswith("trainer")):
                    told |= {(topic, 0, partition, offset) for offset in range(oldest - missing, oldest)}
        for topic in {key[0] for key in told}:
            told -= self._read(topic).keys()
        return told

    def records(self, topic: str) -> dict[Key, Record]:
        """Return all records that a topic ever had, in order within a partition."""
        everything = {key: record for key, record in self._kept.items() if key[0] == topic} | self._read(topic)
        return dict(sorted(everything.items()))

    def values(self, topic: str) -> Iterator[bytes]:
        """Yield the values of all records that a topic ever had, in order within a partition."""
        yield from (record.value or b"" for record in self.records(topic).values())

    def behaviors(self) -> list[bytes]:
        """Return those behaviours that sequences must hold, in order within a partition."""
        gone = self.told() | self._deleted
        found = self.records(self.topics.behaviors)
        return [record.value or b"" for key, record in found.items() if key not in gone]

    def removed(self) -> Removed:
        """Return what Kafka has removed before it was surely read.

        What a process said to be missing, and of topics that were deleted what lay behind the last commit.
        """
        topics, told = self.topics, self.told()
        gone = told | self._deleted
        maybe = told | self._unread
        behaviors = self.records(topics.behaviors)
        impressions = self._values_of(topics.impressions, maybe)
        clicks = [decode_click(value) for value in self._values_of(topics.clicks, maybe)]
        return Removed(
            Counter(decode_behavior(record.value or b"").user for key, record in behaviors.items() if key in gone),
            frozenset(decode_impression(value).request for value in impressions),
            frozenset((click.request, click.item) for click in clicks),
            frozenset(key for key in maybe if key[0] == topics.samples),
        )

    def _values_of(self, topic: str, keys: set[Key]) -> Iterable[bytes]:
        if not any(key[0] == topic for key in keys):
            return []
        return [record.value or b"" for key, record in self.records(topic).items() if key in keys]

    def _read(self, topic: str) -> dict[Key, Record]:
        return {
            (topic, self._recreated[topic], record.partition, record.offset): record
            for record in self._harness.records(topic)
            if record[:3] not in self._harness.unusable
        }


def told_gaps(log: Path) -> list[tuple[str, int, int, int]]:
    """Return topic, partition, oldest record and number of missing ones of each gap that a process told of."""
    found = _TOLD.findall(log.read_text(errors="replace"))
    return [(topic, int(partition), int(oldest), int(missing)) for topic, partition, missing, oldest in found]
