"""Retention that overtakes a reader: Kafka removes records that a frozen or stopped process has not read."""

import signal
import time
from collections.abc import Mapping
from contextlib import closing

from confluent_kafka import TopicPartition

from model.serialization.checkpoint import load_newest
from stream.kafka.clients import consumer
from tests.e2e.harness import wait_for
from tests.faults.episode import START_S, Episode
from tests.faults.history import Key

_NOTICED_S = 20.0
_TURNS = (
    ("impressions", "without its state"),
    ("clicks", "without its state"),
    ("behaviors", "frozen"),
    ("samples", "frozen"),
    ("clicks", "stopped"),
    ("samples", "stopped"),
    ("impressions", "frozen"),
    ("behaviors", "stopped"),
    ("clicks", "frozen"),
    ("impressions", "stopped"),
)
"""Records that are removed, and how their reader was kept from them."""


class Retention(Episode):
    """The topics in turn, under a reader that is frozen, stopped, or stopped and without its state.

    A reader that stops is started again with `topics.on_missing_records=skip`, as it says; what it then says to be
    missing must be what nothing came of.
    """

    kind = "retention overtook a reader"
    remedies = ("Kafka has removed what came then: .*Start with topics.on_missing_records=skip to go on without these",)

    def strike(self, number: int) -> str:
        """Remove records that are not read; returns which, and how their reader was kept from them."""
        topics = self.harness.topics
        name, way = _TURNS[number % len(_TURNS)]
        topic: str = getattr(topics, name)
        reader = "trainer" if topic == topics.samples else "worker"
        self.quiesce()
        read_to = self._position(topic)
        if way == "frozen":
            self.send(reader, signal.SIGSTOP)
        else:
            self.end(reader)
        self._write(topic)
        unread = self._remove(topic, read_to)
        if way == "without its state":
            self.lose_state(unread)
        if way != "frozen":
            self.start(reader)
        told = self._times_told(reader, topic)
        if way == "frozen":
            self.send(reader, signal.SIGCONT)
        if unread:
            self._await(reader, topic, told, _NOTICED_S if way == "frozen" else START_S)
        if topic == topics.behaviors:
            self.history.unsettled |= set(self.harness.asked)
        return f"{len(unread)} {name} that the {reader} had not read, {way}"

    def obey(self, job: str, message: str) -> None:
        """Start again, and go on without what Kafka has removed."""
        assert message
        self.start(job, "--set", "topics.on_missing_records=skip")

    def _position(self, topic: str) -> Mapping[int, int]:
        """Return partition → the offset that the topic's reader has reached for good."""
        if topic == self.harness.topics.samples:
            found = load_newest(self.harness.directory / "checkpoints").checkpoint
            return found.offsets if found else {}
        with closing(consumer(self.kafka, {"group.id": self.harness.settings.worker.group})) as asker:
            return self.committed(asker, topic)

    def _write(self, topic: str) -> None:
        """Let users write what the reader does not read: as samples, what a worker makes of their visits."""
        harness, topics = self.harness, self.harness.topics
        if topic == topics.samples:
            self.live(15)
            self.await_answers()
        elif topic == topics.clicks:
            for request in harness.asked[-30:]:
                if (score := harness.answers.get(request)) is None:
                    continue
                for index in score.order[: score.slots]:
                    if (request, score.items[index]) not in harness.clicked:
                        harness.client.click(request, score.items[index])
                        harness.clicked.add((request, score.items[index]))
        else:
            for _ in range(15):
                self.act()
        harness.client.flush()

    def _remove(self, topic: str, read_to: Mapping[int, int]) -> set[Key]:
        """Have Kafka remove all but the newest records; returns those that were not read."""
        ends: dict[int, int] = {}
        unread: set[Key] = set()

        def written() -> bool:
            for key in self.history.keep(topic):
                _, _, partition, offset = key
                ends[partition] = max(ends.get(partition, 0), offset + 1)
                if offset >= read_to.get(partition, 0):
                    unread.add(key)
            return bool(unread)

        wait_for(written, f"records of {topic}")
        lows = {partition: max(0, end - self.random.randrange(3)) for partition, end in ends.items()}
        asked = [TopicPartition(topic, partition, low) for partition, low in lows.items()]
        for removed in self.admin.delete_records(asked).values():
            removed.result()
        return {key for key in unread if key[3] < lows[key[2]]}

    def _await(self, reader: str, topic: str, told: int, at_most_s: float) -> None:
        """Wait until the reader tells of a gap once more, or ends with what to do; then do it."""
        deadline = time.monotonic() + at_most_s
        while self._times_told(reader, topic) == told and time.monotonic() < deadline:
            self.live_a_little()
            if message := self.stopped(reader):
                self.recover(reader, message)
                return

    def _times_told(self, reader: str, topic: str) -> int:
        return self.log(reader).count(f" records_missing topic={topic} ")
