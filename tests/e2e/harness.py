"""A small system under test, the truth of what was sent to it, and the accounts that must balance afterwards."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from confluent_kafka import Message

from model.serialization.checkpoint import load_newest
from state.behavior import BehaviorArray, action_key, behaviors, category_key, item_key
from state.partition import Partition
from stream.client import Client
from stream.kafka.clients import to_record
from stream.kafka.offsets import GroupLag
from stream.kafka.reader import TopicReader
from stream.local.ports import free_port
from stream.local.processes import log_tail
from stream.local.system import Processes
from stream.schema.erasures import decode_marker
from stream.schema.events import Candidate, RequestKey, Score, decode_behavior, decode_sample, decode_score
from stream.schema.record import Record
from stream.schema.topics import Topics
from stream.settings import Settings, convert

LENGTH = 48
USERS = [f"user-{number}" for number in range(30)]
ITEMS = [f"item-{number}" for number in range(60)]
SLOTS = 3
DEADLINE_S = 60.0
WINDOW_S = 300.0
"""Longer than a test waits: a click is never too late, also on a busy machine."""


def wait_for(
    condition: Callable[[], bool], what: str, *, processes: Processes | None = None, deadline_s: float = DEADLINE_S
) -> None:
    """Wait until a condition holds; fails after a deadline with the ends of all logs, or when a process has died."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if processes is not None:
            processes.check()
        if time.monotonic() > deadline:
            logs = sorted(processes.log("any").parent.glob("*.log")) if processes is not None else []
            said = "\n".join(f"{path.name}:\n{log_tail(path)}" for path in logs)
            raise AssertionError(f"waited {deadline_s:.0f} s in vain for {what}\n{said}")
        time.sleep(0.02)


class Harness:
    """Processes on a broker, users who act, and what they did."""

    processes_type: type[Processes] = Processes
    """How processes are started; the tests of this folder set another way (see conftest.py)."""

    def __init__(
        self,
        kafka: dict[str, str],
        topics: Topics,
        prefix: str,
        directory: Path,
        *,
        users: Sequence[str] = USERS,
        seed: int = 7,
        **changes: Any,
    ) -> None:
        self.topics = topics
        self.users = users
        self.directory = directory
        values: dict[str, Any] = {
            "kafka": kafka | {"session.timeout.ms": "6000"},
            "topics": {"prefix": prefix, "partitions": 4},
            "state": {"directory": str(directory / "state"), "length": LENGTH, "slack": 64, "cache_mb": 1},
            "worker": {
                "group": f"{prefix}workers",
                "commit_interval_s": 0.2,
                "attribution_window_s": WINDOW_S,
                "max_future_s": 4 * WINDOW_S,
            },
            "trainer": {
                "directory": str(directory / "checkpoints"),
                "update_interval_s": 0.2,
                "checkpoint_interval_s": 1.0,
            },
            "arms": [
                {"name": "sam", "preset": f"sam-{LENGTH}", "model": {"item_dim": 4, "category_dim": 4}},
                {"name": "counts", "preset": f"counts-{LENGTH}"},
            ],
        }
        for section, change in changes.items():
            values[section] = values.get(section, {}) | change if isinstance(change, dict) else change
        self.settings: Settings = convert(values)
        self.processes = self.processes_type(directory, self.settings)
        self.client = Client(kafka, topics)
        self.random = random.Random(seed)
        self._visits: Counter[str] = Counter()
        self.asked: list[RequestKey] = []
        self.answers: dict[RequestKey, Score] = {}
        self.clicked: set[tuple[RequestKey, str]] = set()
        self.quiet: set[str] = set()
        """Users who never click."""
        self.unusable: set[tuple[str, int, int]] = set()
        """(topic, partition, offset) of records that no reader may use: the accounts are kept without them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.stop()
        self.client.close()

    def start_worker(self, name: str, *arguments: str, instance: str | None = None) -> subprocess.Popen[bytes]:
        """Start a worker, a static member of its group when `instance` is given; wait until it has partitions."""
        static = ["--set", f"kafka.group.instance.id={instance}"] if instance else []
        worker = self.processes.start(name, "worker", *static, *arguments)
        log = self.processes.log(name)
        wait_for(
            lambda: "assigned partitions=" in log.read_text(), f"{name} to take partitions", processes=self.processes
        )
        return worker

    def kill(self, name: str) -> None:
        """Kill -9 a worker or a trainer."""
        child = self.processes.release(name)
        child.kill()
        child.wait()

    def end(self, name: str) -> None:
        """Ask a worker or a trainer to end (SIGTERM), and see that it does so in order."""
        child = self.processes.release(name)
        child.terminate()
        assert child.wait(30) == 0, self.processes.log(name).read_text()

    def last_words(self, name: str) -> str:
        """Wait until a job has ended by itself with status 1; returns its last log line, which is no stack trace."""
        child = self.processes.release(name)
        code = child.wait(DEADLINE_S)
        log = self.processes.log(name).read_text()
        assert code == 1, log
        assert "Traceback" not in log, log
        return log.splitlines()[-1]

    def start_measured(self) -> tuple[int, int]:
        """Start a trainer and a worker that serve metrics; returns the ports of worker and trainer."""
        worker, trainer = free_port(), free_port()
        self.processes.start("trainer", "trainer", "--set", f"trainer.metrics=127.0.0.1:{trainer}")
        self.start_worker("worker", "--set", f"worker.metrics=127.0.0.1:{worker}")
        return worker, trainer

    def replace_worker(self, name: str, successor: str, *arguments: str) -> None:
        """Kill -9 a worker that was started with `instance="one"`, and start another one in its place.

        The successor of a static member (KIP-345) takes over at once; the embedded broker would let a dynamic one wait
        for ever beside a member that was killed.
        """
        self.kill(name)
        self.start_worker(successor, *arguments, instance="one")

    def replace_worker_after_an_answer(self, name: str, successor: str) -> None:
        """Replace a worker that has given answers which no commit knows; its successor answers the rest."""
        for _ in range(10):
            self.ask()
        wait_for(lambda: bool(self.react(0.05)), "an answer that no commit knows", processes=self.processes)
        self.replace_worker(name, successor)
        self.await_answers()

    def close_windows(self) -> None:
        """Move event time past every window, once all clicks are processed: every user does one more thing, later."""
        self.client.flush()
        with closing(GroupLag(self.settings.kafka, self.settings.worker.group)) as lag:
            wait_for(lambda: not lag.of(self.topics.clicks, 4), "all clicks to be processed", processes=self.processes)
        later = round(1000 * (time.time() + 2 * WINDOW_S))
        for user in self.users:
            self.client.behavior(user, "item-0", later)
        self.client.flush()

    def wander(self, count: int) -> None:
        """Let users do `count` things."""
        for _ in range(count):
            item = self.random.choice(ITEMS)
            self.client.behavior(self.random.choice(self.users), item, category=f"category-{item[-1]}")

    def ask(self, user: str | None = None) -> RequestKey:
        """Let a user visit, or one at random; each one's requests are numbered from 1."""
        offered = [Candidate(item, f"category-{item[-1]}") for item in self.random.sample(ITEMS, 8)]
        user = user or self.random.choice(self.users)
        self._visits[user] += 1
        request = self.client.impression(user, offered, SLOTS, request_id=str(self._visits[user]))
        self.asked.append(request)
        return request

    def react(self, timeout_s: float = 0.0) -> list[tuple[RequestKey, float]]:
        """Take the answers that have come, and click on some of what they show; returns (request, received)."""
        taken = []
        for score, received in self.client.poll_scores(timeout_s):
            if score.request in self.answers:
                continue
            self.answers[score.request] = score
            taken.append((score.request, received))
            for index in score.order[: score.slots]:
                if self.random.random() < 0.4 and score.user not in self.quiet:
                    self.client.click(score.request, score.items[index])
                    self.clicked.add((score.request, score.items[index]))
        return taken

    def traffic(self, visits: int) -> None:
        """Let users visit and act, and wait until every visit is answered."""
        for _ in range(visits):
            self.ask()
            self.wander(self.random.randrange(4))
            self.react(0.005)
        self.await_answers()

    def await_answers(self) -> None:
        """Wait until every visit is answered."""

        def all_answered() -> bool:
            self.react(0.05)
            return len(self.answers) == len(self.asked)

        try:
            wait_for(all_answered, f"{len(self.asked)} answers", processes=self.processes)
        except AssertionError as error:
            missing = [request for request in self.asked if request not in self.answers]
            error.add_note(f"{len(missing)} are missing, first {missing[:5]}")
            raise

    def shown(self) -> dict[tuple[RequestKey, str], int]:
        """Return (request, item) → label of everything that was shown, as the first answers said."""
        return {
            (request, score.items[index]): int((request, score.items[index]) in self.clicked)
            for request, score in self.answers.items()
            for index in score.order[: score.slots]
        }

    def trained(self) -> int:
        """Return how many samples the newest checkpoint has learned."""
        found = load_newest(self.directory / "checkpoints").checkpoint
        return found.counts.get("samples", 0) if found else 0

    def folded(self) -> dict[str, BehaviorArray]:
        """Fold the topic `behaviors` in plain Python: user → all of them since the user was erased, in order."""
        rows: dict[str, list[tuple[int, int, int, int]]] = {}
        for value in self.read(self.topics.behaviors):
            if (marker := decode_marker(value)) is not None:
                rows.pop(marker.user, None)
                continue
            event = decode_behavior(value)
            packed = item_key(event.item), category_key(event.category), action_key(event.action), event.ts
            rows.setdefault(event.user, []).append(packed)
        return {user: behaviors(packed) for user, packed in rows.items()}

    def oracle(self) -> dict[str, BehaviorArray]:
        """Return what workers are to have of each user: the newest `LENGTH` behaviours."""
        return {user: everything[-LENGTH:] for user, everything in self.folded().items()}

    def messages(self, topic: str) -> list[Message]:
        """Return all records of a topic with their headers, in order within a partition."""
        tail = TopicReader(self.settings.kafka, [topic], from_beginning=True)
        deadline = time.monotonic() + DEADLINE_S
        try:
            messages: list[Message] = []
            while not tail.at_end():
                assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
                messages += tail.read(0.5)
            return messages
        finally:
            tail.close()

    def records(self, topic: str) -> list[Record]:
        """Return all records of a topic, in order within a partition."""
        return [to_record(message) for message in self.messages(topic)]

    def read(self, topic: str) -> list[bytes]:
        """Return the values of all usable records of a topic, in order within a partition."""
        return [record.value or b"" for record in self.records(topic) if record[:3] not in self.unusable]

    def come_to_rest(self, deadline_s: float = DEADLINE_S) -> None:
        """Close all windows, wait until every behaviour is folded and every shown item trained, and stop in order."""
        self.close_windows()
        with closing(GroupLag(self.settings.kafka, self.settings.worker.group)) as lag:
            wait_for(
                lambda: self.trained() >= len(self.shown()) and not lag.of(self.topics.behaviors, 4),
                "all behaviours to be folded, and all samples to be trained",
                processes=self.processes,
                deadline_s=deadline_s,
            )
        self.processes.stop()

    def settle(self, state: str = "state") -> None:
        """Let everything come to rest, and balance the accounts."""
        self.come_to_rest()
        assert self.trained() == len(self.shown())
        self.check_answers()
        self.check_samples()
        self.check_sequences(state)

    def check_sequences(self, state: str = "state") -> None:
        """See that the stored sequences equal the oracle's, to the byte. Call it when the workers have stopped."""
        expected = self.oracle()
        found: dict[str, bytes] = {}
        for path in sorted((self.directory / state).glob("partition-*")):
            partition = Partition.open(path, length=LENGTH, slack=self.settings.state.slack)
            for user in expected:
                if partition.sequences.count(user):
                    assert user not in found, f"{user} lies in two partitions"
                    found[user] = partition.sequences.read(user).tobytes()
            partition.close()
        assert found == {user: sequence.tobytes() for user, sequence in expected.items()}

    def check_samples(self) -> None:
        """See that each shown item of the answers came out as a sample with the right label, and nothing else did.

        Where labels come early, what was clicked may have come out as unclicked before.
        """
        keys = {item_key(item): item for item in ITEMS}
        labels: dict[tuple[RequestKey, str], set[int]] = {}
        for value in self.read(self.topics.samples):
            sample = decode_sample(value)
            for key, label in zip(
                np.frombuffer(sample.items, "<u8").tolist(), np.frombuffer(sample.labels, "u1").tolist(), strict=True
            ):
                labels.setdefault((sample.request, keys[key]), set()).add(label)
        if self.settings.worker.labels == "early":
            labels = {pair: {max(found)} for pair, found in labels.items()}
        expected = {pair: {label} for pair, label in self.shown().items()}
        wrong = {pair for pair in labels.keys() | expected.keys() if labels.get(pair) != expected.get(pair)}
        assert not wrong, [(pair, labels.get(pair), expected.get(pair)) for pair in sorted(wrong)[:10]]

    def check_answers(self) -> None:
        """See that every visit was answered, on every reading of the topic the same set."""
        assert {decode_score(value).request for value in self.read(self.topics.scores)} == set(self.asked)
