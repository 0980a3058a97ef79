"""The formats of the input topics, as `[registry]` of the settings says."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from stream.errors import RegistryError, SettingsError
from stream.registry.schemas import Key, Kind, Schemas
from stream.runtime.closing import Resources
from stream.schema.formats import HEADER_BYTES, JSON_ONLY, MAGIC, Formats, await_ready, schema_id
from stream.schema.json_path import path_of
from stream.schema.topics import Topics
from stream.settings import Settings

_PAUSE_S = 0.05
_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


class RegistryFormats:
    """Values in Confluent's wire format, beside others, which are JSON.

    A topic in Avro or Protobuf may have JSON as well: what was written before it was changed, the markers of erased
    users, and what samstream itself writes.

    Args:
        kinds: topic → what its schemas must be.
        schemas: the schemas.
    """

    def __init__(self, kinds: Mapping[str, Kind], schemas: Schemas) -> None:
        self._kinds = kinds
        self._schemas = schemas

    def reads(self, topic: str) -> bool:
        """Say whether values of a topic may be in another format than JSON."""
        return topic in self._kinds

    def ready(self, topic: str, value: bytes | None) -> bool:
        """Say whether a value can be read or refused by now; if not, its schema is being asked for. Never waits."""
        number = schema_id(value)
        return number is None or topic not in self._kinds or self._schemas.ready(Key(self._kinds[topic], number))

    def to_json(self, topic: str, value: bytes) -> bytes:
        """Return a value as JSON, as it is where it is JSON already; `ready` has said that it can be.

        Raises:
            ValueError: says why it cannot be read.
        """
        if topic not in self._kinds or not value.startswith(MAGIC):
            return value
        number = schema_id(value)
        if number is None:
            raise ValueError(f"{len(value)} bytes begin with 0, as a value with the id of a schema, and end within it")
        read = self._schemas.reader(Key(self._kinds[topic], number))
        try:
            plain = read(value[HEADER_BYTES:])
        except Exception as error:  # whatever the libraries raise for bytes that do not fit
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ValueError(f"the value is not what its schema {number} says: {why}") from None
        try:
            return _encode(plain).encode()
        except (ValueError, TypeError):
            raise ValueError(f"{_wrong_words(plain)}, by schema {number}") from None

    def notes(self) -> Sequence[str]:
        """Return what keeps schemas from being known, in words; empty when nothing does."""
        return self._schemas.notes()


def _wrong_words(plain: Any) -> str:
    """Return what is no JSON in a value, and where: bytes, NaN or an infinity."""
    if at := path_of(plain, lambda part: isinstance(part, bytes)):
        return f"Expected what JSON has, got `bytes` - at `{at}`"
    at = path_of(plain, lambda part: isinstance(part, float) and not math.isfinite(part))
    return f"Expected a finite number - at `{at}`" if at else "it has what JSON cannot say"


def open_formats(settings: Settings, topics: Topics, resources: Resources) -> Formats:
    """Return the formats of the input topics.

    Args:
        settings: `registry` says which.
        topics: the topic names.
        resources: get what must be closed at the end.

    Raises:
        SettingsError: when the extra `registry` is not installed, or its client does not take the settings.
    """
    kinds: dict[str, Kind] = {
        topic: kind
        for topic, kind in (
            (topics.behaviors, settings.registry.behaviors),
            (topics.impressions, settings.registry.impressions),
            (topics.clicks, settings.registry.clicks),
        )
        if kind != "json"
    }
    if not kinds:
        return JSON_ONLY
    try:
        from stream.registry.client import RegistryClient
    except ImportError as error:
        raise SettingsError(
            f"registry: Avro and Protobuf need the extra `registry`: pip install 'samstream[registry]' ({error})"
        ) from None
    client = resources.add(RegistryClient(settings.registry))
    return RegistryFormats(kinds, resources.add(Schemas(client.reader)))


def awaited_json(formats: Formats, topic: str, value: bytes, wait_s: float = 30.0) -> bytes:
    """Return a value as JSON, for who can wait, but not for ever.

    Raises:
        ValueError: says why it cannot be read.
        RegistryError: when the registry has not told its schema within `wait_s`.
    """
    if not formats.reads(topic):
        return value
    deadline = time.monotonic() + wait_s

    def pause() -> None:
        if time.monotonic() > deadline:
            raise RegistryError("; ".join(formats.notes()) or "the schema registry does not answer")
        time.sleep(_PAUSE_S)

    await_ready(formats, [(topic, value)], pause)
    return formats.to_json(topic, value)
