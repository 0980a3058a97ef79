"""JSON Schemas of what travels as JSON, made from the structs that decode it (draft 2020-12)."""

from collections.abc import Mapping
from inspect import cleandoc
from typing import Any

import msgspec
from msgspec import Struct

from stream.schema.events import Behavior, Click, Impression, Score, Withdrawal
from stream.schema.features import FeatureSchema
from stream.schema.topics import Topics

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_OPTIONAL = {"Behavior": ("category", "action"), "Candidate": ("category",), "Impression": ("slots", "explain")}
"""Fields of what comes from outside in which `null` stands for the default."""


def event_schemas(topics: Topics, features: FeatureSchema, *, max_candidates: int) -> dict[str, dict[str, Any]]:
    """Return topic → the JSON Schema of its records' values, for the topics that others write or read as JSON.

    A record that fits its schema can still be refused: for its key, partition, size, a `ts` that is too far from the
    record's timestamp, or a candidate that is listed twice.

    Args:
        topics: the topic names.
        features: what `features` may hold.
        max_candidates: of an impression.
    """
    kinds: dict[str, type[Struct]] = {
        topics.behaviors: Behavior,
        topics.impressions: Impression,
        topics.clicks: Click,
        topics.scores: Score,
    }
    given = {"Behavior": features.behavior_type, "Impression": features.context_type, "Candidate": features.item_type}
    schemas = {topic: struct_schema(kind, given) for topic, kind in kinds.items()}
    schemas[topics.impressions]["properties"]["candidates"]["maxItems"] = max_candidates
    schemas[topics.impressions] = _either(schemas[topics.impressions], struct_schema(Withdrawal))
    return schemas


def struct_schema(kind: type[Struct], features: Mapping[str, type[Struct]] | None = None) -> dict[str, Any]:
    """Return the JSON Schema of a struct.

    Args:
        kind: the struct.
        features: struct → what its field `features` holds; any object unless said.
    """
    (reference,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    for name, part in parts.items():
        if "description" in part:
            part["description"] = cleandoc(part["description"])  # as Python 3.13 has it anyway
        fields = part.get("properties", {})
        for field in _OPTIONAL.get(name, ()):
            fields[field] = _nullable(fields[field])
        if "features" in fields:
            fields["features"] = _nullable(_features(features[name] if features and name in features else None))
    own = parts.pop(kind.__name__)
    assert reference == {"$ref": f"#/$defs/{kind.__name__}"}
    return {"$schema": DRAFT, **own, **({"$defs": parts} if parts else {})}


def _either(*schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what fits one of several, whose parts have different names."""
    parts = {name: part for schema in schemas for name, part in schema.get("$defs", {}).items()}
    own = [{name: value for name, value in schema.items() if name not in ("$schema", "$defs")} for schema in schemas]
    title, text = " or ".join(each["title"] for each in own), " ".join(each["description"] for each in own)
    return {"$schema": DRAFT, "title": title, "description": text, "anyOf": own, "$defs": parts}


def _features(kind: type[Struct] | None) -> dict[str, Any]:
    if kind is None:
        return {"type": "object"}
    [_], parts = msgspec.json.schema_components([kind])
    [part] = parts.values()
    return {name: value for name, value in part.items() if name not in ("title", "required")}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    default = {"default": schema.pop("default")} if "default" in schema else {}
    return {"anyOf": [schema, {"type": "null"}], **default}
