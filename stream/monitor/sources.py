"""What a monitor reads, `outcomes` and `scores`: which logs they are, where it goes on in them, and what is missing."""

import logging
import math
import time
from dataclasses import dataclass

from stream.errors import MonitorError
from stream.kafka.clients import consumer as new_consumer
from stream.kafka.identity import LogWatch, Position, compare
from stream.kafka.offsets import committed_offsets, metadata_of, watermarks
from stream.kafka.removed import skip_removed
from stream.monitor.counting import PartitionProgress
from stream.runtime.logs import log
from stream.schema.position import LogIdentity, Origin, decode_origin, kept_origin
from stream.schema.topics import Topics
from stream.settings import Settings

_logger = logging.getLogger("samstream.monitor")

_ANSWER_S = 5.0

Where = tuple[str, int]
"""Topic and partition number."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a partition is read on.

    Attributes:
        offset: the next one to be read.
        reset: whether what was counted of the partition is of another log, or lost: counting starts over.
    """

    offset: int
    reset: bool = False


class Sources:
    """The logs that one monitor process reads.

    An offset is believed only with what it is an offset of: counts have it in `PartitionProgress.origin`, and the
    group's committed offsets in their metadata.

    Args:
        settings: the configuration.

    Raises:
        TopicError: when a topic does not exist.
        KafkaClientError: when Kafka does not answer, or refuses this client.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = Topics(settings.topics.prefix)
        kafka = {key: value for key, value in settings.kafka.items() if key != "group.instance.id"}
        self._asker = new_consumer(kafka, {"group.id": settings.monitor.group})
        self._watch = LogWatch(kafka)
        self._logs = self._watch.begin([self._topics.outcomes, self._topics.scores])
        self._next: dict[Where, int] = {}
        self._newest: dict[Where, int] = {}
        self._anchors: dict[Where, Position] = {}
        self._skipped: dict[Where, int] = {}
        self._told: set[tuple[str, str]] = set()
        self.missing = 0
        """Records that Kafka had removed before they could be read."""

    @property
    def outcomes(self) -> LogIdentity:
        """Which log the topic `outcomes` is."""
        return self._logs[self._topics.outcomes]

    def close(self) -> None:
        """Close the client."""
        self._asker.close()

    def resume(self, topic: str, number: int, counted: PartitionProgress | None = None) -> Resumption:
        """Return where to read on in a partition that was assigned; waits for Kafka.

        Args:
            topic: `outcomes` or `scores`.
            number: the partition.
            counted: how far the tables have counted it; None where they have nothing of it, as of all `scores`.

        Raises:
            MonitorError: when the counts are another system's, the number of partitions was changed, or Kafka has
                removed outcomes that were not read (`stop`).
            KafkaClientError: when Kafka does not answer.
        """
        where = topic, number
        low, _ = watermarks(self._asker, topic, number)
        committed, self._newest[where] = self._committed(topic, number)
        expected, reset = committed, False
        if topic == self._topics.outcomes:
            reset = counted is None or not self._is_ours(number, counted)
            self._anchors.pop(where, None)
            if counted is None or reset:
                counted_to = 0
            else:
                counted_to = counted.offset + 1
                origin = decode_origin(counted.origin)
                if origin is not None and origin.timestamp >= 0:
                    self._anchors[where] = (*where, counted.anchor, origin.timestamp)
            if committed > counted_to:
                # Offsets are committed after their counts are in Kafka: these counts were lost.
                self._tell(
                    "committed_offset_ignored",
                    topic,
                    group=self._settings.monitor.group,
                    reason="these tables have not counted so far: they count what the topic has now",
                )
                committed, reset, counted_to = 0, True, 0
            expected = counted_to
        expected = max(expected, self._skipped.get(where, 0))
        if 0 < expected < low:
            self._miss(topic, number, expected, low, low)
        self._next[where] = max(committed, low)
        if topic != self._topics.outcomes and self._newest[where] >= 0:
            self._anchor(where)
        return Resumption(self._next[where], reset)

    def take(self, topic: str, number: int, offset: int, timestamp: int) -> int:
        """Take note of a record that was read, and its Kafka timestamp (ms); returns the offset that should have come.

        Where the two differ, `find_gap` finds out why.
        """
        where = topic, number
        expected, self._next[where] = self._next.get(where, offset), offset + 1
        self._newest[where] = max(self._newest.get(where, -1), timestamp)
        self._anchor(where)
        return expected

    def find_gap(self, topic: str, number: int, expected: int, offset: int) -> None:
        """Find out whether Kafka has removed the records before one that was read; waits for Kafka.

        Args:
            topic: `outcomes` or `scores`.
            number: the partition.
            expected: the offset that should have come.
            offset: the one that came.

        Raises:
            MonitorError: when outcomes are gone (`stop`).
            KafkaClientError: when Kafka does not answer.
        """
        low, _ = watermarks(self._asker, topic, number)
        # Transaction markers and the like leave gaps as well, but not before the oldest record.
        if low > expected:
            self._miss(topic, number, expected, min(low, offset), low)

    def origin(self, topic: str, number: int) -> str:
        """Return what offsets of a partition are offsets of, as text.

        The timestamp is the newest that was read: no record before an offset is younger, whatever order they came in.
        """
        return Origin(self._logs[topic], self._newest.get((topic, number), -1)).encode()

    def anchor(self, topic: str, number: int) -> tuple[str, int]:
        """Return what offsets of a partition are offsets of, with the time before the first one that was reached."""
        _, _, offset, timestamp = self._anchors.get((topic, number), (topic, number, 0, -1))
        return Origin(self._logs[topic], timestamp).encode(), offset

    def check(self, now: float) -> None:
        """See that the topics are still the ones that are read; asks Kafka every few seconds.

        Args:
            now: a monotonic clock, seconds.

        Raises:
            MonitorError: when one was recreated, or has another number of partitions.
        """
        found = self._watch.check(now, lambda: list(self._anchors.values()))
        if found is None:
            return
        topic, difference = found
        if difference == "partitions":
            raise MonitorError(
                f"the number of partitions of {topic} was changed while this monitor ran. {self._rename()}"
            )
        raise MonitorError(
            f"{topic} was deleted and recreated while this monitor ran. Start the monitor again: it counts what the"
            " topic has now, and nothing of what it had before"
        )

    def check_now(self) -> None:
        """As `check`, but waits for Kafka's answer: after something went wrong that this may explain.

        Raises:
            MonitorError: as `check`.
        """
        deadline = time.monotonic() + _ANSWER_S
        while time.monotonic() < deadline:
            self.check(math.inf)
            time.sleep(0.2)

    def _anchor(self, where: Where) -> None:
        """Remember the first position in a partition of which a time is known (see `PartitionProgress.anchor`)."""
        if where not in self._anchors:
            self._anchors[where] = (*where, self._next[where], self._newest[where])

    def _is_ours(self, number: int, counted: PartitionProgress) -> bool:
        """Return whether counts are of the topic of now; False when that topic was recreated."""
        now = self.outcomes
        # Counts from before origins were kept are only compared with the topic's end.
        origin = kept_origin(counted.origin, now)
        difference = compare(self._asker, origin, now, number, counted.anchor) or compare(
            self._asker, Origin(origin.log), now, number, counted.offset + 1
        )
        if difference in ("cluster", "topic"):
            raise other_system(self._settings, origin.log, now)
        if difference == "partitions":
            raise self.partitions_changed(origin.log.partitions)
        if difference:
            self._tell(
                "topic_recreated",
                now.topic,
                was=origin.log.topic_id or "unknown",
                now=now.topic_id or "unknown",
                begins="counts what the topic has now, and nothing of what it had before",
            )
        return not difference

    def partitions_changed(self, before: int) -> MonitorError:
        """Return the error that counts are of so many partitions, and the topic has others."""
        now, group = self.outcomes, self._settings.monitor.group
        return MonitorError(
            f"the counts of group {group} are of a time when {now.topic} had {before} partitions; now it has"
            f" {now.partitions}. {self._rename()}"
        )

    def _rename(self) -> str:
        return (
            "Users lie in other partitions since then, and would be counted in both. Give the monitors another"
            " monitor.group and monitor.directory: they count again all that Kafka has"
        )

    def _committed(self, topic: str, number: int) -> tuple[int, int]:
        """Return the group's committed offset, 0 for none of the topic of now; and the time (ms) before it, or −1."""
        [known] = committed_offsets(self._asker, topic, [number])
        if known.offset <= 0:
            return 0, -1
        origin = kept_origin(metadata_of(known), self._logs[topic])
        if compare(self._asker, origin, self._logs[topic], number, known.offset):
            self._tell(
                "committed_offset_ignored",
                topic,
                group=self._settings.monitor.group,
                reason=f"it is of an earlier {topic} or another cluster",
            )
            return 0, -1
        return known.offset, origin.timestamp

    def _tell(self, event: str, topic: str, **fields: object) -> None:
        """Log what holds of a topic's partitions, once."""
        if (event, topic) not in self._told:
            self._told.add((event, topic))
            log(_logger, event, logging.WARNING, topic=topic, **fields)

    def _miss(self, topic: str, number: int, expected: int, end: int, low: int) -> None:
        """Stop, or count the records from `expected` to `end`; missing answers, which are latencies, never stop."""
        self.missing += skip_removed(
            self._settings.topics.on_missing_records if topic == self._topics.outcomes else "skip",
            topic,
            number,
            reached=expected,
            oldest=low,
            end=end,
            says=f"{topic}/{number} was counted",
            error=MonitorError,
            logger=_logger,
        )
        self._skipped[topic, number] = end


def other_system(settings: Settings, counted: LogIdentity, read: LogIdentity) -> MonitorError:
    """Return the error that tables are of another prefix or cluster."""
    monitor = settings.monitor
    return MonitorError(
        f"the tables of group {monitor.group} in {monitor.directory} are counts of topic {counted.topic!r} of cluster"
        f" {counted.cluster}, and this monitor reads {read.topic!r} of cluster {read.cluster}: give each topics.prefix"
        " a monitor.group and a monitor.directory of its own, and each cluster a monitor.directory"
    )
