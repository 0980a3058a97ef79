"""Thousands of hostile records on a running system: nothing ends, each is kept with a reason, good ones count."""

import json
import random
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Message

from stream.kafka.clients import to_record
from stream.kafka.dead_letters import read_dead_letters
from stream.kafka.producer import ReliableProducer
from stream.schema.events import (
    DECODE_ERRORS,
    decode_behavior,
    decode_click,
    decode_impression,
    decode_sample,
    encode_packed,
)
from stream.schema.partitioner import partition_of
from stream.schema.record import Record
from stream.schema.topics import Topics
from tests.e2e.harness import WINDOW_S, Harness, wait_for
from tests.e2e.raw import good_sample
from tests.stream.task.hostile import USERS, damaged, good

PARTITIONS = 4

NAMES = {"behaviors": decode_behavior, "impressions": decode_impression, "clicks": decode_click}
Where = tuple[str, int, int]


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path)


class Enemy:
    """Writes hostile records, and remembers those that nobody may use.

    What turns out to be of use after all is left out, but for behaviours: those are folded, by the oracle as well.
    """

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self._topics = harness.topics
        self._sender = ReliableProducer(harness.settings.kafka)
        self._random = random.Random(11)
        self.refused: dict[Where, bytes | None] = {}

    def write_inputs(self, count: int, huge: int) -> None:
        """Write records to the topics that users write, and some of almost a megabyte."""
        rng = self._random
        for number in range(count):
            name, user = rng.choice(list(NAMES)), rng.choice(USERS)
            value = None if rng.random() < 0.01 else damaged(rng, good(rng, name, user, number))
            key = user.encode() if rng.random() < 0.98 else rng.choice([None, b"", b"\xff", b"another"])
            home = partition_of(user.encode(), PARTITIONS)
            place = home if rng.random() < 0.98 else rng.randrange(PARTITIONS)
            if name != "behaviors" and readable(name, value):
                continue
            usable = name == "behaviors" and taken(value, key, place)
            self._send(getattr(self._topics, name), value, key, place, usable=usable)
        for number in range(huge):
            junk = json.dumps({"user": USERS[0], "item": "x" * 880_000}).encode()[: -(number % 2) or None]
            self._send(self._topics.behaviors, junk, USERS[0].encode(), partition_of(USERS[0].encode(), PARTITIONS))

    def write_samples(self, count: int) -> None:
        rng = self._random
        for number in range(count):
            value = mangled(rng, encode_packed(good_sample(f"hostile-{number}")))
            try:
                decode_sample(value)
            except DECODE_ERRORS:
                self._send(self._topics.samples, value, None, rng.randrange(PARTITIONS))

    def write_updates(self, count: int) -> None:
        """Write damaged parts of what the trainer has published: workers refuse them, no dead letters."""
        parts = self._harness.read(self._topics.model_updates)
        for _ in range(count):
            noise = mangled(self._random, self._random.choice(parts))
            self._sender.send(self._topics.model_updates, noise, key="noise", partition=0)

    def flush(self) -> None:
        self._sender.flush()

    def _send(self, topic: str, value: bytes | None, key: bytes | None, place: int, *, usable: bool = False) -> None:
        taken_in = None if usable else partial(self._remember, value)
        self._sender.send(topic, value, key=key, partition=place, on_delivery=taken_in)

    def _remember(self, value: bytes | None, message: Message) -> None:
        where = to_record(message)[:3]
        self.refused[where] = value
        self._harness.unusable.add(where)


def readable(name: str, value: bytes | None) -> bool:
    try:
        NAMES[name](value or b"")
    except DECODE_ERRORS:
        return False
    return True


def taken(value: bytes | None, key: bytes | None, place: int) -> bool:
    """Say whether a behaviour is one to be folded."""
    if not readable("behaviors", value):
        return False
    event = decode_behavior(value or b"")
    name = event.user.encode()
    in_time = event.ts <= 1000 * (time.time() + 4 * WINDOW_S)
    return in_time and key == name and partition_of(name, PARTITIONS) == place


def mangled(rng: random.Random, value: bytes) -> bytes:
    """Return bytes after something was done to them."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(500))
    bad = bytearray(value)
    for _ in range(rng.randrange(1, 5)):
        bad[rng.randrange(len(bad))] ^= rng.randrange(1, 256)
    return bytes(bad[: rng.randrange(len(bad))] if rng.random() < 0.3 else bad)


def origin(record: Record) -> Where:
    return record[:3]


@pytest.mark.parametrize(
    ("inputs", "internal", "huge"),
    [(3_000, 1_000, 1), pytest.param(20_000, 3_000, 20, marks=pytest.mark.slow)],
    ids=["some", "many"],
)
def test_hostile_records_at_volume_stop_nothing_and_each_is_kept_with_a_reason(
    harness: Harness, inputs: int, internal: int, huge: int
) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker")
        harness.wander(300)
        harness.traffic(10)
        enemy = Enemy(harness)
        enemy.write_updates(internal)
        enemy.write_samples(internal)
        for _ in range(20):
            enemy.write_inputs(inputs // 20, huge)
            harness.ask()
            harness.wander(5)
            harness.react()
        enemy.flush()
        harness.await_answers()
        newest = max(score.version for score in harness.answers.values())

        def newer_served() -> bool:
            harness.traffic(1)
            return max(score.version for score in harness.answers.values()) > newest

        wait_for(newer_served, "a newer model among the noise", processes=harness.processes)
        harness.settle()
        letters = list(read_dead_letters(harness.settings.kafka, harness.topics))
        assert len(enemy.refused) > 0.6 * (inputs + internal)
        found = Counter(origin(letter.origin) for letter in letters)
        missing, more = enemy.refused.keys() - found.keys(), found.keys() - enemy.refused.keys()
        assert not missing, (len(missing), sorted(missing)[:5])
        assert not more, (len(more), sorted(more)[:5])
        assert max(found.values()) == 1, "a record came twice"
        wrong = [
            letter
            for letter in letters
            if not letter.reason or letter.cut or letter.origin.value != enemy.refused[origin(letter.origin)]
        ]
        assert not wrong, [(letter.origin[:3], letter.reason) for letter in wrong[:5]]
