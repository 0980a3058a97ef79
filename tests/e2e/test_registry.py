"""Input in Avro and Protobuf: folded, answered, learned; refused with a reason; kept while the registry is away."""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastavro", reason="the extra registry is not installed: pip install '.[registry]'")
pytest.importorskip("google.type.date_pb2", reason="googleapis-common-protos is not installed: pip install '.[test]'")

from stream.kafka.dead_letters import DeadLetter, read_dead_letters
from stream.kafka.offsets import GroupLag
from stream.schema.events import Score, decode_score, encode_json
from stream.schema.input_schemas import avro_schemas
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from tests.e2e.harness import ITEMS, SLOTS, Harness, wait_for
from tests.e2e.raw import RawWriter
from tests.registry_stub import RegistryStub
from tests.stream.registry.support import AvroWriter, ProtobufWriter, frame

PARTITIONS = 4


def place_of(user: str) -> int:
    """Return the partition of a user."""
    return partition_of(user.encode(), PARTITIONS)


ANN = "user-1"
"""Whose partition waits for a schema while the registry is away."""
OTHERS = [f"user-{number}" for number in range(2, 30)]
BEN = next(user for user in OTHERS if place_of(user) != place_of(ANN))
"""Whose partition does not."""


@pytest.fixture
def registry() -> Iterator[RegistryStub]:
    with RegistryStub() as stub:
        yield stub


class Shop:
    """Writes what users do as others would."""

    def __init__(self, harness: Harness, registry: RegistryStub, raw: RawWriter) -> None:
        self._harness = harness
        self._raw = raw
        self._topics = harness.topics
        self.avro = AvroWriter(registry, harness.topics)
        self._protobuf = ProtobufWriter(registry, harness.topics)
        self._requests = 0

    def write(self, topic: str, user: str, value: bytes) -> None:
        self._raw.write(topic, value, key=user.encode(), partition=place_of(user))

    def behave(self, user: str, count: int) -> None:
        for place in range(count):
            event = {"user": user, "item": ITEMS[place], "ts": now(), "category": "tea", "features": {"price": 1.5}}
            self.write(self._topics.behaviors, user, self.avro(self._topics.behaviors, event))

    def ask(self, user: str) -> Score:
        """Ask in Protobuf; returns the answer."""
        self._requests += 1
        number = f"r{self._requests}"
        candidates = [{"item": item, "category": "tea"} for item in ITEMS[:8]]
        event = {"request_id": number, "user": user, "ts": now(), "candidates": candidates, "slots": SLOTS}
        self.write(self._topics.impressions, user, self._protobuf(self._topics.impressions, event, "Impression"))
        found: list[Score] = []

        def answered() -> bool:
            scores = map(decode_score, self._harness.read(self._topics.scores))
            found[:] = [score for score in scores if score.request == (user, number)]
            return bool(found)

        wait_for(answered, f"the answer to {number}", processes=self._harness.processes)
        return found[0]


def now() -> int:
    return round(1000 * time.time())


def notes_of(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as response:
        health: dict[str, Any] = json.load(response)
    return list(health["notes"])


def letters_of(harness: Harness) -> list[DeadLetter]:
    return list(read_dead_letters(harness.settings.kafka, harness.topics))


def test_avro_and_protobuf_come_through_and_a_registry_that_is_away_costs_nothing(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path, registry: RegistryStub
) -> None:
    section = {"url": registry.url, "behaviors": "avro", "impressions": "protobuf"}
    harness = Harness(kafka, topics, topic_prefix, tmp_path, registry=section)
    with harness, RawWriter(kafka) as raw:
        shop = Shop(harness, registry, raw)
        port, _ = harness.start_measured()

        # In Avro, Protobuf and, for what samstream itself writes, JSON.
        shop.behave(ANN, 5)
        shop.behave(BEN, 3)
        harness.client.behavior(ANN, "item-0")
        harness.client.flush()
        wait_until_folded(harness)
        first = shop.ask(ANN)
        assert (first.seen, shop.ask(BEN).seen) == (6, 3)
        shown = first.items[first.order[0]]
        shop.write(topics.clicks, ANN, encode_json({"request_id": "r1", "user": ANN, "item": shown, "ts": now()}))

        # What cannot be read is kept as it came.
        unknown = frame(123_456, b"whatever")
        short = AvroWriter(registry, topics, {topics.behaviors: json.dumps(SHORT)})
        lacking = short(topics.behaviors, {"user": ANN, "item": "tea"})
        shop.write(topics.behaviors, ANN, unknown)
        shop.write(topics.behaviors, ANN, lacking)
        wait_for(lambda: len(letters_of(harness)) == 2, "two dead letters", processes=harness.processes)
        reasons = {letter.origin.value: letter.reason for letter in letters_of(harness)}
        assert reasons[unknown] == "the registry has no schema 123456"
        assert "missing required field `ts`" in reasons[lacking]

        # A producer has a newer schema, and the registry is away: its partition waits, others do not.
        newer = AvroWriter(registry, topics, {topics.behaviors: json.dumps(longer(topics))})
        values = [
            newer(topics.behaviors, {"user": ANN, "item": ITEMS[place], "ts": now(), "screen": "home"})
            for place in range(4)
        ]
        registry.stop()
        for value in values:
            shop.write(topics.behaviors, ANN, value)
        shop.behave(BEN, 2)
        wait_for(lambda: any("none is lost" in note for note in notes_of(port)), "a note", processes=harness.processes)
        assert shop.ask(BEN).seen == 5
        with closing(GroupLag(harness.settings.kafka, harness.settings.worker.group)) as lag:
            assert lag.of(topics.behaviors, PARTITIONS) >= len(values)
        registry.start()
        wait_until_folded(harness)
        assert shop.ask(ANN).seen == 10
        wait_for(lambda: not notes_of(port), "the note to go", processes=harness.processes)
        assert "registry_away" in harness.processes.log("worker").read_text()
        assert "registry_back" in harness.processes.log("worker").read_text()

        # A worker that dies begins again with what the log has.
        harness.end("worker")
        harness.start_worker("successor")
        assert shop.ask(ANN).seen == 10
        assert len(letters_of(harness)) == 2

        # The trainer has folded the same sequences: each shown item is learned with the one that it was scored with.
        harness.close_windows()
        wait_for(lambda: harness.trained() >= 5 * SLOTS, "all samples to be trained", processes=harness.processes)
        assert harness.trained() == 5 * SLOTS


SHORT = {
    "type": "record",
    "name": "Short",
    "fields": [{"name": "user", "type": "string"}, {"name": "item", "type": "string"}],
}


def longer(topics: Topics) -> dict[str, Any]:
    """Return the shipped schema with a field more."""
    schema: dict[str, Any] = avro_schemas(topics)[topics.behaviors]
    return schema | {"fields": [{"name": "screen", "type": "string"}, *schema["fields"]]}


def wait_until_folded(harness: Harness) -> None:
    with closing(GroupLag(harness.settings.kafka, harness.settings.worker.group)) as lag:
        wait_for(
            lambda: not lag.of(harness.topics.behaviors, PARTITIONS),
            "all behaviours to be folded",
            processes=harness.processes,
        )
