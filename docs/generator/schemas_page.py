"""`docs/schemas.md`: the schemas of the topics that others write or read."""

import json

from stream.cli.topics import schemas
from stream.schema.input_schemas import avro_schemas, protobuf_schemas
from stream.schema.topics import Topics
from stream.settings import Settings

_HEAD = """# Schemas

*This page is written by `python -m docs.generator`; do not edit it.*

JSON Schemas (draft 2020-12) of the records' values in the topics that you write or read as JSON. `samstream topics
schemas --config FILE` prints those of your settings, with your [features](kafka.md#features), topic names and limits;
below are those of the defaults. They are made from the types that decode the records, and tested to accept the same.

A record that fits can still become a [dead letter](kafka.md#bad-input): for its key or partition, for a `ts` too far
from the record's timestamp, for its size, or for a candidate that is listed twice.

Schemas in [Avro](#avro) and [Protobuf](#protobuf) of the topics that you write stand at the end."""

_AVRO = """## Avro

For input topics [in Avro](kafka.md#avro-and-protobuf): `samstream topics schemas --format avro`, with `--topic NAME`
one of them alone, as a registry takes it. What may be null has its default then. `features` may be anything that JSON
may have; `[features]` of your settings says what is read of it. A record of `impressions` is an impression or a
withdrawal."""

_PROTOBUF = """## Protobuf

For input topics [in Protobuf](kafka.md#avro-and-protobuf): `samstream topics schemas --format protobuf`, with `--topic
NAME` one file alone. All fields have presence: one that is not set has its default, or is missing."""


def schemas_page() -> str:
    """Return the page."""
    parts = [
        f"## {topic}\n\n```json\n{json.dumps(schema, indent=2, ensure_ascii=False)}\n```"
        for topic, schema in schemas(Settings()).items()
    ]
    topics = Topics()
    avro = [
        f"### {topic}.avsc\n\n```json\n{json.dumps(schema, indent=2, ensure_ascii=False)}\n```"
        for topic, schema in avro_schemas(topics).items()
    ]
    protobuf = [f"### {topic}.proto\n\n```protobuf\n{text}```" for topic, text in protobuf_schemas(topics).items()]
    return "\n\n".join((_HEAD, *parts, _AVRO, *avro, _PROTOBUF, *protobuf)) + "\n"
