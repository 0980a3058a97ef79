"""What a registry answers, and what it does not: only its own word that a schema is not there refuses a record."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastavro", reason="the extra registry is not installed: pip install '.[registry]'")

from stream.errors import RegistryError, SettingsError
from stream.registry.client import RegistryClient
from stream.registry.schemas import Key
from stream.settings import RegistrySettings, convert
from tests.e2e.secured import certificates
from tests.registry_stub import RegistryStub

SCHEMA = '{"type": "record", "name": "A", "fields": [{"name": "user", "type": "string"}]}'


@pytest.fixture
def registry() -> Iterator[RegistryStub]:
    with RegistryStub() as stub:
        stub.register("a", SCHEMA)
        yield stub


def reading(stub: RegistryStub, credentials: str = "", ca: str = "") -> RegistryClient:
    return RegistryClient(RegistrySettings(url=stub.url, timeout_s=5.0, credentials=credentials, ca=ca))


def test_a_schema_is_read(registry: RegistryStub) -> None:
    client = reading(registry)
    assert client.reader(Key("avro", 1))(b"\x06ann") == {"user": "ann"}
    client.close()


@pytest.mark.long
@pytest.mark.parametrize(
    ("failing", "words"),
    [
        ((500, b'{"error_code": 50001, "message": "Error in the backend data store"}'), "Error in the backend"),
        ((404, b"<html>no such page</html>"), "HTTP status code 404"),
        ((404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'), "HTTP 404 Not Found"),
        ((401, b'{"error_code": 401, "message": "Unauthorized"}'), "Unauthorized"),
        ((429, b""), "429"),
        ((200, b"<html>a proxy</html>"), "no use of the schema registry"),
        ((200, b"{}"), "no use of the schema registry"),
    ],
)
def test_what_is_no_word_of_the_registry_is_asked_again(
    registry: RegistryStub, failing: tuple[int, bytes], words: str
) -> None:
    registry.failing = failing
    client = reading(registry)
    with pytest.raises(RegistryError, match=words):
        client.reader(Key("avro", 1))
    registry.failing = None
    assert client.reader(Key("avro", 1))(b"\x06ann") == {"user": "ann"}
    with pytest.raises(ValueError, match="the registry has no schema 2"):
        client.reader(Key("avro", 2))
    client.close()


def test_a_registry_that_is_away_is_named(registry: RegistryStub) -> None:
    client = reading(registry)
    registry.stop()
    with pytest.raises(RegistryError, match=f"no use of the schema registry at {registry.url}: ConnectError"):
        client.reader(Key("avro", 1))
    registry.start()
    assert client.reader(Key("avro", 1))(b"\x06ann") == {"user": "ann"}
    client.close()


@pytest.mark.long
def test_credentials_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("samstream:secret\n")
    (tmp_path / "wrong").write_text("samstream:guess\n")
    with RegistryStub(credentials="samstream:secret") as registry:
        registry.register("a", SCHEMA)
        for file in ("", str(tmp_path / "wrong")):
            client = reading(registry, credentials=file)
            with pytest.raises(RegistryError, match="Unauthorized"):
                client.reader(Key("avro", 1))
            client.close()
        client = reading(registry, credentials=str(tmp_path / "credentials"))
        assert client.reader(Key("avro", 1))(b"\x06ann") == {"user": "ann"}
        client.close()
        with pytest.raises(SettingsError, match="No such file"):
            reading(registry, credentials=str(tmp_path / "none"))
        (tmp_path / "odd").write_text("secret")
        with pytest.raises(SettingsError, match="username") as refused:
            reading(registry, credentials=str(tmp_path / "odd"))
        assert "secret" not in str(refused.value)


@pytest.mark.long
def test_https_is_checked_by_an_authority_of_ones_own(tmp_path: Path) -> None:
    certificates(tmp_path)
    with RegistryStub(certificate=tmp_path / "server-chain.pem") as registry:
        registry.register("a", SCHEMA)
        client = reading(registry, ca=str(tmp_path / "ca.pem"))
        assert client.reader(Key("avro", 1))(b"\x06ann") == {"user": "ann"}
        client.close()
        client = reading(registry, ca=str(tmp_path / "other.pem"))
        with pytest.raises(RegistryError, match="certificate"):
            client.reader(Key("avro", 1))
        client.close()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"behaviors": "avro"}, "registry.behaviors is avro: registry.url must say where"),
        ({"clicks": "xml"}, "registry.clicks"),
        ({"url": "localhost:8081"}, "write it as http://HOST:PORT"),
        ({"url": "http://u:p@localhost:8081"}, "put `user:password` in a file"),
        ({"certificate_key": "key.pem"}, "certificate_key is given without"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_settings_that_cannot_be_are_refused(section: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        convert({"registry": section})
