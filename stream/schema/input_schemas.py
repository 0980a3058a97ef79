"""Avro and Protobuf schemas of the input topics, made from the structs that check their records.

They do not depend on settings: `features` may be anything, as in JSON, and is checked when it is decoded. A field that
is not required may be left out, or null, and then has its default, as in JSON.
"""

from collections.abc import Iterator
from inspect import getdoc
from typing import Any

from msgspec import Struct
from msgspec import inspect as types

from stream.schema.events import Behavior, Click, Impression, Withdrawal
from stream.schema.topics import Topics

NAMESPACE = "samstream"
"""Of the names in Avro, and the package in Protobuf."""

_AVRO_FEATURES: dict[str, Any] = {
    "type": "map",
    "values": ["null", "long", "double", "string", {"type": "array", "items": ["long", "double", "string"]}],
}
"""Whole numbers first: writers in Python take the first branch that fits, and a whole number fits a double as well."""
_AVRO = {types.StrType: "string", types.IntType: "long", types.BoolType: "boolean"}
_PROTOBUF = {types.StrType: "string", types.IntType: "int64", types.BoolType: "bool"}
_PROTOBUF_FEATURES = "google.protobuf.Struct"


def input_events(topics: Topics) -> dict[str, tuple[type[Struct], ...]]:
    """Return topic → what its records may be."""
    return {topics.behaviors: (Behavior,), topics.impressions: (Impression, Withdrawal), topics.clicks: (Click,)}


def avro_schemas(topics: Topics) -> dict[str, Any]:
    """Return topic → the Avro schema of its records' values: a record, or a union of records."""
    schemas = {}
    for topic, kinds in input_events(topics).items():
        records = [_avro_record(kind) for kind in kinds]
        schemas[topic] = records[0] if len(records) == 1 else records
    return schemas


def protobuf_schemas(topics: Topics) -> dict[str, str]:
    """Return topic → the Protobuf file of its records' values; a record is one of the messages before `Candidate`.

    All fields have presence. Their numbers follow from their order in the structs, which only ever get longer.
    """
    return {topic: _protobuf_file(kinds) for topic, kinds in input_events(topics).items()}


def _avro_record(kind: type[Struct]) -> dict[str, Any]:
    fields: list[dict[str, Any]] = []
    for each in _fields(kind):
        field: dict[str, Any] = {"name": each.name, "type": _avro_type(each.type)}
        if not each.required:
            field |= {"type": ["null", field["type"]], "default": None}
        fields.append(field)
    return {"type": "record", "name": kind.__name__, "namespace": NAMESPACE, "doc": getdoc(kind), "fields": fields}


def _avro_type(kind: types.Type) -> Any:
    match kind:
        case types.RawType():
            return _AVRO_FEATURES
        case types.StructType():
            return _avro_record(kind.cls)
        case types.ListType():
            return {"type": "array", "items": _avro_type(kind.item_type)}
    return _AVRO[type(kind)]


def _protobuf_file(kinds: tuple[type[Struct], ...]) -> str:
    messages = [*kinds, *dict.fromkeys(inner for kind in kinds for inner in _inner(kind))]
    uses_features = any(isinstance(each.type, types.RawType) for kind in messages for each in _fields(kind))
    head = ['syntax = "proto3";', f"package {NAMESPACE};"]
    if uses_features:
        head.append('import "google/protobuf/struct.proto";')
    return "\n\n".join((*head, *(_protobuf_message(kind) for kind in messages))) + "\n"


def _protobuf_message(kind: type[Struct]) -> str:
    lines = [f"// {line}".rstrip() for line in (getdoc(kind) or "").splitlines()]
    lines.append(f"message {kind.__name__} {{")
    lines += [f"  {_protobuf_field(each)} = {number};" for number, each in enumerate(_fields(kind), 1)]
    return "\n".join((*lines, "}"))


def _protobuf_field(field: types.Field) -> str:
    match field.type:
        case types.RawType():
            return f"{_PROTOBUF_FEATURES} {field.name}"
        case types.ListType(item_type=types.StructType() as item):
            return f"repeated {item.cls.__name__} {field.name}"
    return f"optional {_PROTOBUF[type(field.type)]} {field.name}"


def _inner(kind: type[Struct]) -> Iterator[type[Struct]]:
    for field in _fields(kind):
        if isinstance(field.type, types.ListType) and isinstance(field.type.item_type, types.StructType):
            yield field.type.item_type.cls


def _fields(kind: type[Struct]) -> tuple[types.Field, ...]:
    found = types.type_info(kind)
    assert isinstance(found, types.StructType)
    return found.fields
