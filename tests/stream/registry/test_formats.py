"""The same event says the same in JSON, Avro and Protobuf; what is wrong is refused with the words of JSON."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastavro", reason="the extra registry is not installed: pip install '.[registry]'")
pytest.importorskip("google.type.date_pb2", reason="googleapis-common-protos is not installed: pip install '.[test]'")

from stream.runtime.closing import Resources
from stream.schema.events import DECODE_ERRORS, Impression, Withdrawal, encode_json
from stream.schema.features import FeatureDefinition, FeatureSchema
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.record import Record
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.decode import Event, RecordDecoder
from tests.registry_stub import RegistryStub
from tests.stream.registry.support import AvroWriter, ProtobufWriter, frame, opened, to_json

TOPICS = Topics()
FEATURES = FeatureSchema(
    {
        "price": FeatureDefinition(of="item", kind="number"),
        "tags": FeatureDefinition(of="item", kind="categories", size=2),
        "hour": FeatureDefinition(of="context", kind="vector", size=2),
        "shop": FeatureDefinition(of="behavior", kind="category"),
    }
)


class World:
    """A registry, serializers of both formats, and a decoder for each of them and for JSON."""

    def __init__(self, resources: Resources) -> None:
        self.registry = RegistryStub()
        self.registry.start()
        resources.defer(self.registry.stop)
        self.avro = AvroWriter(self.registry, TOPICS)
        self.protobuf = ProtobufWriter(self.registry, TOPICS)
        kinds = ("behaviors", "impressions", "clicks")
        self.formats: dict[str, Any] = {
            kind: opened(self.registry, resources, **dict.fromkeys(kinds, kind)) for kind in ("avro", "protobuf")
        }

    def decode(self, topic: str, value: bytes, kind: str = "json") -> Event:
        """Return what a value says; waits until its schema is known."""
        formats: Formats = JSON_ONLY
        if kind != "json":
            formats = self.formats[kind]
            to_json_or_refused(self.formats[kind], topic, value)
        limits = WorkerSettings(max_future_s=1e12)
        decoder = RecordDecoder(TOPICS, limits, FEATURES, partitions=1, formats=formats)
        record = Record(topic, 0, 0, 1, self.user_of(topic, value, kind).encode(), value)
        return decoder.decode(record)

    def user_of(self, topic: str, value: bytes, kind: str) -> str:
        try:
            event = json.loads(value if kind == "json" else self.formats[kind].to_json(topic, value))
        except DECODE_ERRORS:
            return ""
        return str(event.get("user", "")) if isinstance(event, dict) else ""


def to_json_or_refused(formats: Any, topic: str, value: bytes) -> None:
    with suppress(*DECODE_ERRORS):
        to_json(formats, topic, value)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Resources() as resources:
        yield World(resources)


ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
short = st.text(st.characters(codec="utf-8"), max_size=5)
ts = st.integers(0, 2**47)
maybe = {"category": short | st.none(), "action": short | st.none()}
number = st.floats(-1e15, 1e15) | st.integers(-(10**6), 10**6)
of_item: dict[str, st.SearchStrategy[Any]] = {
    "price": number | st.none(),
    "tags": st.lists(ids | st.integers(-5, 5), max_size=2) | st.none(),
    "unknown": number | ids,
}
features_of_item = st.none() | st.fixed_dictionaries({}, optional=of_item)
features_of_behavior = st.none() | st.fixed_dictionaries({}, optional=of_item | {"shop": ids | st.integers(-5, 5)})
context = st.none() | st.fixed_dictionaries({}, optional={"hour": st.lists(number, min_size=2, max_size=2)})


def event(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


candidates = st.lists(
    event({"item": ids}, {"category": short | st.none(), "features": features_of_item}),
    min_size=1,
    max_size=4,
    unique_by=lambda each: each["item"],
)
EVENTS: dict[str, tuple[str, st.SearchStrategy[dict[str, Any]]]] = {
    "Behavior": (
        TOPICS.behaviors,
        event({"user": ids, "item": ids, "ts": ts}, maybe | {"features": features_of_behavior}),
    ),
    "Impression": (
        TOPICS.impressions,
        event(
            {"request_id": ids, "user": ids, "ts": ts, "candidates": candidates},
            {"slots": st.integers(1, 65535) | st.none(), "features": context, "explain": st.booleans() | st.none()},
        ),
    ),
    "Withdrawal": (TOPICS.impressions, event({"withdraws": ids, "user": ids, "ts": ts}, {})),
    "Click": (TOPICS.clicks, event({"request_id": ids, "user": ids, "item": ids, "ts": ts}, {})),
}


@pytest.mark.long
@pytest.mark.parametrize("message", EVENTS)
@given(st.data())
@settings(deadline=None)
def test_an_event_says_the_same_in_every_format(world: World, message: str, data: st.DataObject) -> None:
    topic, events = EVENTS[message]
    given_event = data.draw(events)
    expected = world.decode(topic, json.dumps(given_event).encode())
    assert type(expected).__name__ == message
    assert world.decode(topic, world.avro(topic, given_event), "avro") == expected
    assert world.decode(topic, world.protobuf(topic, given_event, message), "protobuf") == expected
    # What samstream itself writes, and what was written before the format was changed.
    assert world.decode(topic, json.dumps(given_event).encode(), "avro") == expected


WRONG = [
    ("Behavior", {"user": "", "item": "tea", "ts": 1}),
    ("Behavior", {"user": "ann", "item": "x" * 257, "ts": 1}),
    ("Behavior", {"user": "ann", "item": "tea", "ts": -1}),
    ("Behavior", {"user": "ann", "item": "tea", "ts": 2**50}),
    ("Behavior", {"user": "ann", "item": "tea", "ts": 1, "features": {"price": "dear"}}),
    ("Behavior", {"user": "ann", "item": "tea", "ts": 1, "features": {"tags": ["a", "b", "c"]}}),
    ("Impression", {"request_id": "r", "user": "ann", "ts": 1, "candidates": [{"item": "tea"}, {"item": "tea"}]}),
    ("Impression", {"request_id": "r", "user": "ann", "ts": 1, "candidates": [{"item": "tea"}], "slots": 0}),
    (
        "Impression",
        {"request_id": "r", "user": "ann", "ts": 1, "candidates": [{"item": "a"}], "features": {"hour": [1]}},
    ),
    ("Click", {"request_id": "", "user": "ann", "item": "tea", "ts": 1}),
]


@pytest.mark.parametrize(("message", "wrong"), WRONG)
def test_what_json_refuses_is_refused_with_the_same_words(world: World, message: str, wrong: dict[str, Any]) -> None:
    topic, _ = EVENTS[message]

    def reason(value: bytes, kind: str = "json") -> str:
        with pytest.raises(DECODE_ERRORS) as refused:
            world.decode(topic, value, kind)
        return str(refused.value)

    expected = reason(json.dumps(wrong).encode())
    assert reason(world.avro(topic, wrong), "avro") == expected
    assert reason(world.protobuf(topic, wrong, message), "protobuf") == expected


def record_of(*fields: tuple[str, Any]) -> str:
    return json.dumps(
        {"type": "record", "name": "Own", "fields": [{"name": name, "type": kind} for name, kind in fields]}
    )


USUAL = (("user", "string"), ("item", "string"), ("ts", "long"))


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        (record_of(*USUAL[:2]), {"user": "ann", "item": "tea"}, "missing required field `ts`"),
        (record_of(*USUAL[:2], ("ts", "string")), {"user": "ann", "item": "tea", "ts": "1"}, "at `$.ts`"),
        (record_of(("user", "bytes"), *USUAL[1:]), {"user": b"ann", "item": "tea", "ts": 1}, "`bytes` - at `$.user`"),
        (record_of(*USUAL[:2], ("ts", "double")), {"user": "ann", "item": "tea", "ts": float("nan")}, "at `$.ts`"),
        (record_of(*USUAL, ("features", {"type": "map", "values": "double"})),
         {"user": "ann", "item": "tea", "ts": 1, "features": {"x": float("inf")}}, "at `$.features.x`, by schema"),
        ('"string"', "ann", "Expected `object`, got `str`"),
    ],
)  # fmt: skip
def test_a_schema_that_does_not_fit_is_refused_by_the_field(world: World, schema: str, value: Any, words: str) -> None:
    written = AvroWriter(world.registry, TOPICS, {TOPICS.behaviors: schema})(TOPICS.behaviors, value)
    with pytest.raises(DECODE_ERRORS) as refused:
        world.decode(TOPICS.behaviors, written, "avro")
    assert words in str(refused.value)


def test_a_schema_of_ones_own_may_have_more_fields_other_orders_and_logical_types(world: World) -> None:
    action = {"type": "enum", "name": "Action", "symbols": ["view", "buy"]}
    features = {"type": "record", "name": "Features", "fields": [{"name": "price", "type": "float"}]}
    schema = record_of(
        ("session", "string"),
        ("ts", {"type": "long", "logicalType": "timestamp-millis"}),
        ("action", action),
        ("item", "string"),
        ("features", features),
        ("user", {"type": "string", "logicalType": "uuid"}),
    )
    own = {"session": "s", "ts": 17, "action": "buy", "item": "tea", "features": {"price": 2.5}, "user": "ann"}
    written = AvroWriter(world.registry, TOPICS, {TOPICS.behaviors: schema})(TOPICS.behaviors, own)
    assert world.decode(TOPICS.behaviors, written, "avro") == world.decode(TOPICS.behaviors, json.dumps(own).encode())


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("avro", frame(4_000_000, b"x"), "the registry has no schema 4000000"),
        ("avro", frame(2**32 - 1, b"x"), "the registry has no schema 4294967295"),
        ("avro", frame(0, b"x"), "the registry has no schema 0"),
        ("avro", b"\0\0", "2 bytes begin with 0"),
        ("avro", b"\0", "1 bytes begin with 0"),
        ("avro", b"", "truncated"),
        ("avro", b"no json", "malformed"),
        ("avro", b"\1\0\0\0\1", "malformed"),
    ],
)
def test_a_value_that_names_no_schema_is_refused(world: World, kind: str, value: bytes, words: str) -> None:
    with pytest.raises(DECODE_ERRORS, match=words):
        world.decode(TOPICS.behaviors, value, kind)


def test_a_schema_of_another_kind_is_refused(world: World) -> None:
    own = {"user": "ann", "item": "tea", "ts": 1}
    with pytest.raises(ValueError, match="is avro, the settings say that this topic is protobuf"):
        world.decode(TOPICS.behaviors, world.avro(TOPICS.behaviors, own), "protobuf")
    with pytest.raises(ValueError, match="is protobuf, the settings say that this topic is avro"):
        world.decode(TOPICS.behaviors, world.protobuf(TOPICS.behaviors, own, "Behavior"), "avro")


@given(st.data())
@settings(deadline=None)
@pytest.mark.parametrize("kind", ["avro", "protobuf"])
def test_damaged_values_are_refused_or_read_and_never_more(world: World, kind: str, data: st.DataObject) -> None:
    own = {"request_id": "r", "user": "ann", "ts": 1, "candidates": [{"item": "tea"}, {"item": "cup"}]}
    write = (
        world.avro(TOPICS.impressions, own) if kind == "avro" else world.protobuf(TOPICS.impressions, own, "Impression")
    )
    damaged = bytearray(write)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(5, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(5, len(damaged)))])
    with suppress(*DECODE_ERRORS):
        assert isinstance(world.decode(TOPICS.impressions, cut, kind), Impression | Withdrawal)


def test_bytes_that_are_left_over_are_refused(world: World) -> None:
    written = world.avro(TOPICS.clicks, {"request_id": "r", "user": "ann", "item": "tea", "ts": 1})
    with pytest.raises(ValueError, match=r"is not what its schema .* says: ValueError: 2 bytes are left over"):
        world.decode(TOPICS.clicks, written + b"xx", "avro")


def test_a_schema_that_names_others_is_read_with_them(world: World) -> None:
    inner = {"type": "record", "name": "Thing", "namespace": "shop", "fields": [{"name": "price", "type": "double"}]}
    world.registry.register("thing", json.dumps(inner))
    references = [{"name": "shop.Thing", "subject": "thing", "version": 1}]
    outer = record_of(*USUAL, ("features", "shop.Thing"))
    number = world.registry.register("outer", outer, references=references)
    payload = b"\x06ann\x06tea\x02" + b"\x00\x00\x00\x00\x00\x00\x04\x40"
    expected = world.decode(
        TOPICS.behaviors, encode_json({"user": "ann", "item": "tea", "ts": 1, "features": {"price": 2.5}})
    )
    assert world.decode(TOPICS.behaviors, frame(number, payload), "avro") == expected
    missing = world.registry.register("lost", outer, references=[{"name": "shop.Thing", "subject": "no", "version": 1}])
    with pytest.raises(ValueError, match="the registry has no version 1 of no"):
        world.decode(TOPICS.behaviors, frame(missing, payload), "avro")
    broken = world.registry.register("broken", "{}")
    with pytest.raises(ValueError, match=f"schema {broken} cannot be used"):
        world.decode(TOPICS.behaviors, frame(broken, payload), "avro")


def test_a_value_with_a_schema_on_a_json_topic_says_what_to_set(world: World) -> None:
    with pytest.raises(ValueError, match=r"it looks like a value of schema 7; \[registry\]"):
        world.decode(TOPICS.behaviors, frame(7, b"abc"))


def test_what_is_known_is_read_while_the_registry_is_away(tmp_path: Path) -> None:
    with Resources() as resources, RegistryStub() as registry:
        write = AvroWriter(registry, TOPICS)
        formats = opened(registry, resources, clicks="avro")
        own = {"request_id": "r", "user": "ann", "item": "tea", "ts": 1}
        value = write(TOPICS.clicks, own)
        assert msgspec.json.decode(to_json(formats, TOPICS.clicks, value)) == own
        registry.stop()
        assert msgspec.json.decode(to_json(formats, TOPICS.clicks, value)) == own
        assert not formats.ready(TOPICS.clicks, frame(99, b"x"))
        assert formats.ready(TOPICS.behaviors, frame(99, b"x")), "a topic that is JSON waits for nothing"
