"""What the settings open, what is missing for it, and how long a reader waits that cannot wait for ever."""

import sys

import pytest

from stream.errors import RegistryError, SettingsError
from stream.registry.formats import RegistryFormats, awaited_json, open_formats
from stream.registry.schemas import Key, Reader, Schemas
from stream.runtime.closing import Resources
from stream.schema.formats import JSON_ONLY
from stream.schema.topics import Topics
from stream.settings import Settings, convert

TOPICS = Topics()
FRAMED = b"\0\0\0\0\7rest"


def test_without_settings_all_topics_are_json_and_nothing_is_opened() -> None:
    with Resources() as resources:
        assert open_formats(Settings(), TOPICS, resources) is JSON_ONLY
    assert not JSON_ONLY.reads(TOPICS.behaviors)
    assert JSON_ONLY.ready(TOPICS.behaviors, FRAMED)
    assert JSON_ONLY.to_json(TOPICS.behaviors, FRAMED) == FRAMED


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stream.registry.client", None)
    settings = convert({"registry": {"url": "http://localhost:1", "clicks": "avro"}})
    with Resources() as resources, pytest.raises(SettingsError, match=r"pip install 'samstream\[registry\]'"):
        open_formats(settings, TOPICS, resources)


@pytest.mark.long
def test_who_cannot_wait_for_ever_is_told_what_it_waited_for() -> None:
    away = True

    def ask(key: Key) -> Reader:
        if away:
            raise RegistryError("it is away")
        return lambda payload: {"number": key.number, "rest": payload.decode()}

    schemas = Schemas(ask, longest_pause_s=0.1)
    formats = RegistryFormats({TOPICS.behaviors: "avro"}, schemas)
    assert awaited_json(formats, TOPICS.clicks, FRAMED) == FRAMED
    assert awaited_json(formats, TOPICS.behaviors, b"{}") == b"{}"
    with pytest.raises(RegistryError, match=r"it is away\. Records of schema 7 wait"):
        awaited_json(formats, TOPICS.behaviors, FRAMED, wait_s=0.5)
    away = False
    assert awaited_json(formats, TOPICS.behaviors, FRAMED) == b'{"number": 7, "rest": "rest"}'
    schemas.close()
