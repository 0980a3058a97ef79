"""Avro values as plain values, read by the schema that they were written with."""

import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader


class AvroReader:
    """Reads values of one schema.

    Logical types are read as what they are made of: a `timestamp-millis` is a whole number of milliseconds.

    Args:
        schema: the writer's, JSON.
        references: the schemas that it names, those first that others name.

    Raises:
        Exception: of fastavro or json, when it is no schema.
    """

    def __init__(self, schema: str, references: Sequence[str] = ()) -> None:
        named: dict[str, dict[str, Any]] = {}
        for each in references:
            parse_schema(_plain(json.loads(each)), named_schemas=named)
        self._schema = parse_schema(_plain(json.loads(schema)), named_schemas=named)

    def __call__(self, payload: bytes) -> Any:
        """Return what was written.

        Raises:
            Exception: of some kind, when the bytes do not fit the schema.
        """
        stream = BytesIO(payload)
        value = schemaless_reader(stream, self._schema, None)
        if left := len(payload) - stream.tell():
            raise ValueError(f"{left} bytes are left over")
        return value


def _plain(schema: Any) -> Any:
    """Return a schema without its logical types."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if key != "logicalType"}
    return [_plain(each) for each in schema] if isinstance(schema, list) else schema
