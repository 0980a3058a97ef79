"""A small system of its own under one kind of fault that destroys records, or what a record means.

Such faults would spoil the accounts of the campaign's other faults, so each kind has topics and directories of its own.
Each must end in a told stop (status 1, and a message that says what to do, which is then done) or in nothing lost.
"""

import random
import re
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Set
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from model.serialization.checkpoint import load_newest
from stream.client import Client
from stream.errors import StreamError
from stream.kafka import topic_admin as topics_module
from stream.kafka.clients import consumer
from stream.kafka.offsets import watermarks
from stream.local.broker import Broker
from stream.schema.events import RequestKey, decode_score
from stream.schema.topics import Topics
from tests.e2e.harness import LENGTH, Harness, wait_for
from tests.faults.accounts import WINDOW_S, Accounts, account
from tests.faults.history import History, Key

USERS = [f"user-{number}" for number in range(40)]
PARTITIONS = 4
_SETTLE_S = 60.0
START_S = 60.0
_END_S = 60.0
_LOOK_S = 1.0
_MOMENT_S = 0.1


@dataclass(frozen=True, slots=True)
class Setting:
    """Where an episode takes place.

    Attributes:
        broker: where it runs.
        directory: of the episode.
        times: how often the fault happens.
        seed: of traffic and faults.
        tell: takes a line now and then.
    """

    broker: Broker
    directory: Path
    times: int
    seed: int
    tell: Callable[[str], None]


class Episode(ABC):
    """A worker and a trainer under traffic, and a fault that happens some times.

    Args:
        setting: where it takes place.
    """

    kind: ClassVar[str]
    """Of the fault."""
    needs_kafka: ClassVar[bool] = True
    """Whether only Apache Kafka can do it."""
    remedies: ClassVar[tuple[str, ...]]
    """Patterns of the messages that a process may end with: what they say is then done."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.random = random.Random(f"{setting.seed} {self.kind}")
        self.kafka = {"bootstrap.servers": setting.broker.bootstrap}
        self.admin = AdminClient({**self.kafka, "log_level": 0})
        self.told_stops: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self._given_up: set[RequestKey] = set()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lives: Counter[str] = Counter()
        self.partitions = PARTITIONS
        self.harness, self.history = self.system(setting.directory)

    def system(self, directory: Path) -> tuple[Harness, History]:
        """Make the topics of a system, and what speaks to it."""
        prefix = f"faults-{self.kind.replace(' ', '-')}-{time.time_ns():x}-"
        topics = Topics(prefix)
        topics_module.ensure(self.kafka, topics, partitions=self.partitions, replication=1)
        harness = Harness(
            self.kafka,
            topics,
            prefix,
            directory,
            users=USERS,
            seed=self.setting.seed,
            **self.changes(),
        )
        return harness, History(harness)

    def changes(self) -> dict[str, Any]:
        """Return what the system's settings have that others have not; one small model, since much is started."""
        arms = [{"name": "counts", "preset": f"counts-{LENGTH}"}]
        worker = {"model_wait_s": 0.0, "attribution_window_s": WINDOW_S}
        return {"state": {"slack": 1024}, "worker": worker, "arms": arms}

    def run(self) -> Accounts:
        """Let the fault happen, let everything come to rest, and count."""
        began = time.monotonic()
        try:
            self.begin()
            for number in range(self.setting.times):
                what = self.strike(number)
                self.live()
                for job in ("worker", "trainer"):  # of `behaviors` both are readers
                    self.recover(job, self.stopped(job))
                took = f"{time.monotonic() - began:.0f} s"
                self.setting.tell(f"{number + 1}/{self.setting.times} {self.kind}: {what}; {took}")
            self.settle()
            return self.account(time.monotonic() - began)
        finally:
            self.harness.processes.stop()
            with suppress(StreamError):  # of what ended the run before
                self.harness.client.close(flush=False)

    @abstractmethod
    def strike(self, number: int) -> str:
        """Let the fault happen for the `number`th time, and do what the processes say; returns what happened."""

    def account(self, seconds: float) -> Accounts:
        """Count everything."""
        for request, _ in self.harness.clicked:
            self.sent[request.user] += 1  # a click is a behaviour, too
        kills = {self.kind: self.setting.times}
        return account(self.harness, self.sent, kills, seconds, self.history, self.told_stops)

    def start(self, job: str, *arguments: str) -> None:
        """Start a job; a worker is a static member of its group (KIP-345), which its successor replaces at once."""
        self._lives[job] += 1
        static = ["--set", "kafka.group.instance.id=one"] if job == "worker" else []
        self._children[job] = self.harness.processes.start(f"{job}.{self._lives[job]}", job, *static, *arguments)

    def end(self, job: str) -> None:
        """Ask a job to end (SIGTERM), and see that it does so in order."""
        child = self._release(job)
        child.send_signal(signal.SIGTERM)
        assert child.wait(_END_S) in (0, -signal.SIGTERM), f"{job} ended with {child.returncode}: {self.log(job)}"

    def send(self, job: str, number: signal.Signals) -> None:
        """Send a signal to a job."""
        self._children[job].send_signal(number)

    def log(self, job: str) -> str:
        """Return the log of a job's present or last life."""
        return self.harness.processes.log(f"{job}.{self._lives[job]}").read_text(errors="replace")

    def stopped(self, job: str) -> str:
        """Return what a job said when it ended with what to do; empty while it runs.

        Raises:
            AssertionError: when it ended in any other way.
        """
        if self._children[job].poll() is None:
            return ""
        child, log = self._release(job), "\n" + self.log(job)
        assert child.returncode == 1, f"{job} ended with {child.returncode}: {log[-3000:]}"
        assert "Traceback" not in log, log[-3000:]
        _, ours, message = log.rpartition(f"\nsamstream {job}: ")
        assert ours, f"{job} ended without a message: {log[-3000:]}"
        assert any(re.search(pattern, message) for pattern in self.remedies), f"no message that helps: {message}"
        self.told_stops[job] += 1
        return message

    def await_stop(self, job: str, while_waiting: Callable[[], None], *, at_most_s: float = START_S) -> str:
        """Return what a job says when it ends with what to do; empty when it has not ended in that time."""
        deadline = time.monotonic() + at_most_s
        while not (message := self.stopped(job)) and time.monotonic() < deadline:
            while_waiting()
        return message

    def obey(self, job: str, message: str) -> None:
        """Do what a job said when it ended: by default, start it again."""
        assert message
        self.start(job)

    def recover(self, job: str, message: str) -> None:
        """Do what a job said when it ended, until it is at work again."""
        while message:
            self.obey(job, message)
            message = self.await_work(job)

    def await_work(self, job: str) -> str:
        """Let users act until a job is at work; returns what it says when it ends instead."""
        ready = " assigned partitions=" if job == "worker" else " checkpoint path="
        deadline = time.monotonic() + START_S
        while not (message := self.stopped(job)) and ready not in self.log(job):
            assert time.monotonic() < deadline, f"{job} is not at work: {self.log(job)[-3000:]}"
            self.live_a_little()
        return message

    def begin(self) -> None:
        """Start trainer and worker, and let users act until all are at work."""
        for job in ("trainer", "worker"):
            self.start(job)
        for job in ("trainer", "worker"):
            message = self.await_work(job)
            assert not message, message
        self.live()

    def lose_state(self, unread: Set[Key] = frozenset()) -> None:
        """Move the worker's state away.

        Args:
            unread: records that Kafka has removed and nobody has read.
        """
        state = self.harness.directory / "state"
        shutil.move(state, state.with_name(f"state.{time.monotonic_ns()}"))
        self.history.state_lost(unread)

    def live(self, visits: int = 10) -> None:
        """Let users visit and act, with what they click."""
        for _ in range(visits):
            self.act()
            self.harness.react(0.02)

    def act(self) -> None:
        """Let a user visit, and others do something."""
        self.harness.ask()
        for _ in range(4):
            user, item = self.harness.random.choice(USERS), self.harness.random.randrange(60)
            self.harness.client.behavior(user, f"item-{item}", category=f"category-{item % 10}")
            self.sent[user] += 1

    def live_a_little(self) -> None:
        """Let one user act, and take some time."""
        self.act()
        until = time.monotonic() + _MOMENT_S
        while (left := until - time.monotonic()) > 0:
            self.harness.react(left)

    def await_answers(self) -> None:
        """Wait until everything is answered that Kafka has not removed; what is not in time is not waited for again."""
        harness, look_at = self.harness, 0.0
        deadline = time.monotonic() + _SETTLE_S

        def all_answered() -> bool:
            nonlocal look_at
            harness.react(0.05)
            missing = set(harness.asked) - harness.answers.keys() - self._given_up
            if missing and time.monotonic() > deadline:
                self._given_up |= missing
            if missing and time.monotonic() >= look_at:
                # A client that was recreated is not told of answers to its predecessor.
                for value in self.history.values(harness.topics.scores):
                    score = decode_score(value)
                    harness.answers.setdefault(score.request, score)
                missing -= harness.answers.keys() | self.history.removed().requests
                look_at = time.monotonic() + _LOOK_S
            return not missing

        wait_for(all_answered, "all answers", processes=harness.processes, deadline_s=2 * _SETTLE_S)

    def quiesce(self) -> None:
        """Wait until all is worked off and committed, learned and saved."""
        self.harness.client.flush()
        self.await_answers()
        self.harness.client.flush()
        self.await_rest()

    def await_rest(self) -> None:
        """Wait until the worker has read and committed everything, then until the trainer has read and saved it."""
        topics, processes = self.harness.topics, self.harness.processes
        inputs = (topics.behaviors, topics.impressions, topics.clicks)
        with closing(consumer(self.kafka, {"group.id": self.harness.settings.worker.group})) as asker:

            def read() -> bool:
                return all(self.committed(asker, topic) == self.ends(asker, topic) for topic in inputs)

            def saved() -> bool:
                found = load_newest(self.harness.directory / "checkpoints").checkpoint
                return found is not None and found.offsets == self.ends(asker, topics.samples)

            wait_for(read, "all to be worked off", processes=processes, deadline_s=_SETTLE_S)
            wait_for(saved, "all samples to be saved", processes=processes, deadline_s=_SETTLE_S)

    def ends(self, asker: Consumer, topic: str) -> dict[int, int]:
        """Return partition → the offset behind its last record."""
        return {number: watermarks(asker, topic, number)[1] for number in range(self.partitions)}

    def committed(self, asker: Consumer, topic: str) -> dict[int, int]:
        """Return partition → the offset that the workers have committed, or the first one that Kafka has."""
        known = asker.committed([TopicPartition(topic, number) for number in range(self.partitions)], timeout=10)
        return {each.partition: max(each.offset, watermarks(asker, topic, each.partition)[0]) for each in known}

    def new_client(self) -> None:
        """Make a new client: an idempotent producer does not survive the loss of its topic on every broker."""
        self.harness.client.close()
        self.harness.client = Client(self.kafka, self.harness.topics)

    def settle(self) -> None:
        """Wait until all is answered, close all windows, and stop everything when all samples are learned."""
        self.harness.client.flush()
        self.await_answers()
        self.harness.close_windows()
        self.sent.update(USERS)  # what close_windows writes
        self.await_rest()
        self.harness.processes.stop()

    def _release(self, job: str) -> subprocess.Popen[bytes]:
        self.harness.processes.release(f"{job}.{self._lives[job]}")
        return self._children[job]
