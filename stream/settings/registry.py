"""What `[registry]` may set: the formats of the input topics, and where their schemas are."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from stream.errors import SettingsError

Format = Literal["json", "avro", "protobuf"]


class RegistrySettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A schema registry, for input topics in Avro or Protobuf (extra `registry`).

    Attributes:
        behaviors: format of the topic `behaviors`; JSON is read in a topic of any format.
        impressions: the same of `impressions`.
        clicks: the same of `clicks`.
        url: address of the registry (https://HOST:PORT); several of one registry with commas between them.
        credentials: file with `user:password`; empty for none.
        ca: file with the certificates to trust, PEM; empty for those that are commonly trusted.
        certificate: file with this client's certificate, PEM; empty for none.
        certificate_key: file with its private key, PEM; empty where `certificate` holds it.
        timeout_s: how long an answer is waited for before it is asked for again.
    """

    behaviors: Format = "json"
    impressions: Format = "json"
    clicks: Format = "json"
    url: str = ""
    credentials: str = ""
    ca: str = ""
    certificate: str = ""
    certificate_key: str = ""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0


def check_registry(registry: RegistrySettings) -> None:
    """See that the schemas can be asked for where a topic needs them.

    Raises:
        SettingsError: names the key.
    """
    needing = [name for name in ("behaviors", "impressions", "clicks") if getattr(registry, name) != "json"]
    if needing and not registry.url:
        raise SettingsError(f"registry.{needing[0]} is {getattr(registry, needing[0])}: registry.url must say where")
    for url in registry.url.split(",") if registry.url else ():
        if not url.strip().startswith(("http://", "https://")):
            raise SettingsError(
                f"registry.url names {url.strip()!r}: write it as http://HOST:PORT or https://HOST:PORT"
            )
        if "@" in url:
            raise SettingsError("registry.url holds credentials: put `user:password` in a file, registry.credentials")
    if registry.certificate_key and not registry.certificate:
        raise SettingsError("registry.certificate_key is given without registry.certificate")
