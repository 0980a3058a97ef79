"""Asks a schema registry what a schema is, once and without patience: who waits, and how long, others decide."""

import base64
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from stream.errors import RegistryError, SettingsError
from stream.registry.avro import AvroReader
from stream.registry.protobuf import ProtobufReader
from stream.registry.schemas import Key, Reader
from stream.settings.registry import RegistrySettings

_UNKNOWN = {40401, 40402, 40403}
"""The registry's own codes for a subject, a version and a schema that it does not have; another 404 is not from it."""
_LARGEST_ID = 2**31 - 1


class RegistryClient:
    """The HTTP side, by confluent-kafka.

    Args:
        settings: where the registry is, and how to get in.

    Raises:
        SettingsError: when a file cannot be read, or the client does not take the settings.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self.where = settings.url
        """Its address, for messages."""
        # Clients keep a schema in the format that it was asked for first.
        self._clients = {kind: _client(settings) for kind in ("avro", "protobuf")}

    def reader(self, key: Key) -> Reader:
        """Return what reads values of a schema.

        Raises:
            ValueError: when there is no such schema, or it is of another kind, or cannot be used.
            RegistryError: when the registry does not say.
        """
        if not 0 < key.number <= _LARGEST_ID:
            raise ValueError(f"the registry has no schema {key.number}")
        # Protobuf's text would have to be compiled; the registry has done that.
        form = "serialized" if key.kind == "protobuf" else None
        client = self._clients[key.kind]
        schema = self._ask(lambda: client.get_schema(key.number, fmt=form), f"no schema {key.number}")
        if (kind := (schema.schema_type or "AVRO").lower()) != key.kind:
            raise ValueError(f"schema {key.number} is {kind}, the settings say that this topic is {key.kind}")
        references = dict(self._references(client, schema, form, set()))
        text = schema.schema_str or ""
        try:
            if key.kind == "avro":
                return AvroReader(text, list(references.values()))
            files = {name: base64.b64decode(file) for name, file in references.items()}
            return ProtobufReader(base64.b64decode(text), files)
        except Exception as error:  # whatever the libraries raise for what is no schema
            raise ValueError(f"schema {key.number} cannot be used: {type(error).__name__}: {error}") from None

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    def _references(
        self, client: SchemaRegistryClient, schema: Schema, form: str | None, known: set[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield name and text of the schemas that a schema refers to; those first that others refer to."""
        for reference in schema.references or ():
            name, subject = reference.name or "", reference.subject or ""
            version: int | Literal["latest"] = reference.version or "latest"
            if name in known:
                continue
            known.add(name)
            ask = partial(client.get_version, subject, version, deleted=True, fmt=form)
            found = self._ask(lambda ask=ask: ask().schema, f"no version {version} of {subject}")  # type: ignore[misc]
            yield from self._references(client, found, form, known)
            yield name, found.schema_str or ""

    def _ask(self, question: Callable[[], Schema], missing: str) -> Schema:
        try:
            found = question()
        except SchemaRegistryError as error:
            if error.error_code in _UNKNOWN:
                raise ValueError(f"the registry has {missing}") from None
            raise RegistryError(f"the schema registry at {self.where} answers: {error}") from None
        except Exception as error:  # of the HTTP library, or of what is no answer of a registry
            raise RegistryError(f"no use of the schema registry at {self.where}: {_words(error)}") from None
        if not found.schema_str:
            for client in self._clients.values():  # or it would be given again
                client.clear_caches()  # type: ignore[no-untyped-call]
            raise RegistryError(f"no use of the schema registry at {self.where}: it answers without a schema")
        return found


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _client(settings: RegistrySettings) -> SchemaRegistryClient:
    own: dict[str, Any] = {"url": settings.url, "timeout": settings.timeout_s, "max.retries": 0}
    files = {
        "ssl.ca.location": settings.ca,
        "ssl.certificate.location": settings.certificate,
        "ssl.key.location": settings.certificate_key,
    }
    try:
        if settings.credentials:
            own["basic.auth.user.info"] = Path(settings.credentials).read_text().strip()
        return SchemaRegistryClient(own | {key: path for key, path in files.items() if path})
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(f"the [registry] settings cannot be used: {error}") from None
