"""`docs/schemas.md`: the JSON Schema of each topic that others write or read as JSON."""

import json

from stream.cli.topics import schemas
from stream.settings import Settings

_HEAD = """# Schemas

*This page is written by `python -m docs.generator`; do not edit it.*

JSON Schemas (draft 2020-12) of the records' values in the topics that you write or read as JSON. `samstream topics
schemas --config FILE` prints those of your settings, with your [features](kafka.md#features), topic names and limits;
below are those of the defaults. They are made from the types that decode the records, and tested to accept the same.

A record that fits can still become a [dead letter](kafka.md#bad-input): for its key or partition, for a `ts` too far
from the record's timestamp, for its size, or for a candidate that is listed twice."""


def schemas_page() -> str:
    """Return the page."""
    parts = [
        f"## {topic}\n\n```json\n{json.dumps(schema, indent=2, ensure_ascii=False)}\n```"
        for topic, schema in schemas(Settings()).items()
    ]
    return "\n\n".join((_HEAD, *parts)) + "\n"
