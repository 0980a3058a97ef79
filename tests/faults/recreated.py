"""A topic that is deleted and recreated under running processes."""

import signal
import time
from collections.abc import Set
from contextlib import closing

from stream.kafka import topic_admin as topics_module
from stream.kafka.clients import consumer
from tests.e2e.harness import wait_for
from tests.faults.episode import PARTITIONS, Episode

_NOTICED_S = 20.0
"""How long processes may take to notice: they ask Kafka every 5 s."""


class Recreated(Episode):
    """The topics in turn, inputs with records that a frozen or running worker has not read: these are gone with them.

    With `behaviors` the histories are gone. What a topic gets after it was recreated must not be lost.
    """

    kind = "topic recreated"
    remedies = (
        "was deleted and recreated while this worker ran. Start the worker again",
        "was recreated, while it was read. Start again: what the topic has now is read",
        "the topic was recreated, or has lost its end. Start the worker again",
        "the topic was recreated, or has lost its end, while it was read. Start again",
        "Was the topic deleted?.*start again: nothing that was committed is lost",
        "this producer is of no use any more: .*Start again: nothing that was committed is lost",
        "the topic was recreated since .*Move .* away to start from what Kafka has",
        "its log was cut or recreated. Stop the workers, move their state away, start again",
    )

    def strike(self, number: int) -> str:
        """Recreate a topic; returns which, and who noticed."""
        topics = self.harness.topics
        names = (topics.impressions, topics.behaviors, topics.clicks, topics.samples, topics.scores)
        topic = names[number % len(names)]
        is_input = topic not in (topics.samples, topics.scores)
        frozen = is_input and number // len(names) % 2 == 0
        if frozen:
            self.send("worker", signal.SIGSTOP)
        if is_input:
            self._burst()
        else:
            self.quiesce()
        self._recreate(topic)
        self._burst()
        if frozen:
            self.send("worker", signal.SIGCONT)
        readers = {topics.samples: {"trainer"}, topics.behaviors: {"worker", "trainer"}}
        noticed = self._notice(readers.get(topic, {"worker"}))
        for job, message in noticed.items():
            self.recover(job, message)
        if topic == topics.behaviors:
            self.history.unsettled |= set(self.harness.asked)
        name = topic.removeprefix(self.harness.settings.topics.prefix)
        return f"{name}{' under a frozen worker' if frozen else ''}, noticed by {' and '.join(noticed) or 'nobody'}"

    def obey(self, job: str, message: str) -> None:
        """Move the state away where the message says so, and start again."""
        state = self.harness.directory / "state"
        if f"Move {state} away" in message or "move their state away" in message:
            self.lose_state()
        self.start(job)

    def _burst(self) -> None:
        for _ in range(15):
            self.act()

    def _recreate(self, topic: str) -> None:
        harness, topics = self.harness, self.harness.topics
        harness.client.flush()
        with closing(consumer(self.kafka, {"group.id": harness.settings.worker.group})) as asker:
            outputs = (topics.samples, topics.scores)
            read_to = self.ends(asker, topic) if topic in outputs else self.committed(asker, topic)
        self.history.keep(topic)
        harness.client.close()
        self.admin.delete_topics([topic])[topic].result()
        wait_for(lambda: topic not in self.admin.list_topics(timeout=10).topics, f"{topic} to be gone")
        topics_module.ensure(self.kafka, topics, partitions=PARTITIONS, replication=1)
        self.history.recreated(topic, read_to)
        self.new_client()

    def _notice(self, readers: Set[str]) -> dict[str, str]:
        """Let users act until the topic's readers end with what to do; returns who ended, and with what message."""
        noticed: dict[str, str] = {}
        deadline = time.monotonic() + _NOTICED_S
        while not readers <= noticed.keys() and time.monotonic() < deadline:
            self.live_a_little()
            for job in ("worker", "trainer"):
                if job not in noticed and (message := self.stopped(job)):
                    noticed[job] = message
        return noticed
