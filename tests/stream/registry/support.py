"""Writes events as Confluent's own serializers do, with the schemas that samstream ships."""

import json
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import DESCRIPTOR as STRUCT

from stream.registry.formats import RegistryFormats, open_formats
from stream.runtime.closing import Resources
from stream.schema.formats import await_ready
from stream.schema.input_schemas import avro_schemas, protobuf_schemas
from stream.schema.topics import Topics
from stream.settings import Settings, convert
from tests.registry_stub import RegistryStub
from tests.stream.registry.proto_text import compile_proto

DEADLINE_S = 20.0


class AvroWriter:
    """Writes records of the input topics in Avro.

    Args:
        registry: where the schemas are registered.
        topics: the topic names.
        schemas: others than those that samstream ships, by topic.
    """

    def __init__(self, registry: RegistryStub, topics: Topics, schemas: Mapping[str, str] | None = None) -> None:
        client = SchemaRegistryClient({"url": registry.url})
        shipped = {topic: json.dumps(schema) for topic, schema in avro_schemas(topics).items()}
        conf = {"subject.name.strategy.type": "TOPIC"}
        self._serializers = {
            topic: AvroSerializer(client, schema, conf=conf) for topic, schema in {**shipped, **(schemas or {})}.items()
        }

    def __call__(self, topic: str, event: Any) -> bytes:
        """Return an event as the value of a record."""
        written: bytes | None = self._serializers[topic](event, SerializationContext(topic, MessageField.VALUE))
        assert written is not None
        return written


class ProtobufWriter:
    """Writes records of the input topics in Protobuf, with the schemas that samstream ships."""

    def __init__(self, registry: RegistryStub, topics: Topics) -> None:
        self._client = SchemaRegistryClient({"url": registry.url})
        self._pools: dict[str, DescriptorPool] = {}
        self._serializers: dict[tuple[str, str], tuple[Any, ProtobufSerializer]] = {}
        for topic, text in protobuf_schemas(topics).items():
            self._pools[topic] = pool = DescriptorPool()
            pool.AddSerializedFile(STRUCT.serialized_pb)
            pool.Add(compile_proto(text, f"{topic}.proto"))

    def __call__(self, topic: str, event: Mapping[str, Any], message: str) -> bytes:
        """Return an event as the value of a record: a message of this name."""
        key = topic, message
        if key not in self._serializers:
            kind = GetMessageClass(self._pools[topic].FindMessageTypeByName(f"samstream.{message}"))
            conf = {"use.deprecated.format": False, "subject.name.strategy.type": "TOPIC"}
            self._serializers[key] = kind, ProtobufSerializer(kind, self._client, conf)
        kind, serializer = self._serializers[key]
        written = serializer(ParseDict(event, kind()), SerializationContext(topic, MessageField.VALUE))
        assert written is not None
        return written


def frame(number: int, payload: bytes) -> bytes:
    """Return a value in Confluent's wire format."""
    return b"\0" + number.to_bytes(4) + payload


def opened(registry: RegistryStub, resources: Resources, **changes: Any) -> RegistryFormats:
    """Return the formats of the input topics, as settings make them."""
    settings: Settings = convert({"registry": {"url": registry.url, **changes}})
    formats = open_formats(settings, Topics(), resources)
    assert isinstance(formats, RegistryFormats)
    return formats


def to_json(formats: RegistryFormats, topic: str, value: bytes) -> bytes:
    """Return a value as JSON, once its schema is known."""
    deadline = time.monotonic() + DEADLINE_S

    def pause() -> None:
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:.0f} s in vain: {formats.notes()}"
        time.sleep(0.002)

    await_ready(formats, [(topic, value)], pause)
    return formats.to_json(topic, value)
