"""What the compiled code takes for plain says the same to a full decoder; and what producers write is plain."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.behavior import action_key, category_key, item_key
from stream.schema.events import decode_behavior
from stream.task import plain_behaviors
from stream.task.plain_behaviors import pack_events, read_plain

pytestmark = pytest.mark.skipif(
    plain_behaviors._library() is None, reason="the compiled decoder is not built, or switched off"
)
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=127, exclude_characters='"\\\x7f'), max_size=128)
FIELDS = st.fixed_dictionaries(
    {"user": ASCII.filter(bool), "item": ASCII.filter(bool), "ts": st.integers(0, 10**14 - 1)},
    optional={"category": ASCII, "action": ASCII},
)
TOKENS = st.sampled_from(
    [
        *("{", "}", ":", ",", '"', "\\", " ", "\n", "\x00", "\x7f", "é", "null", "true", "[", "]"),
        *("0", "1", "01", "-1", "1.0", "1e3", "17", "99999999999999", "999999999999999", str(2**48), str(2**48 + 1)),
        *(f'"{name}":' for name in ("user", "item", "ts", "category", "action", "features", "us")),
        *('"a"', '""', '"view"', '{"user":"u","item":"i","ts":1', '"ts":1', "}"),
    ]
)


@settings(max_examples=300)
@given(FIELDS, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]), st.randoms())
def test_what_producers_write_is_plain(fields: dict[str, Any], separators: tuple[str, str], rng: Any) -> None:
    shuffled = dict(rng.sample(list(fields.items()), len(fields)))
    value = json.dumps(shuffled, separators=separators, ensure_ascii=False).encode()
    [packed], plain = read_plain([value], [fields["user"].encode()])
    assert plain.tolist() == [True]
    action = action_key(fields.get("action", "view"))
    assert packed.tolist() == (item_key(fields["item"]), category_key(fields.get("category", "")), action, fields["ts"])


@pytest.mark.parametrize("length", range(1, 129))
def test_keys_of_texts_of_each_length(length: int) -> None:
    text = "".join(chr(33 + (7 * place + length) % 90) for place in range(length)).replace('"', "_").replace("\\", "_")
    value = json.dumps({"user": "u", "item": text, "ts": 1, "category": text, "action": text}).encode()
    packed, plain = read_plain([value])
    assert plain.all()
    assert packed.tolist() == [(item_key(text), category_key(text), action_key(text), 1)]


@settings(max_examples=500)
@given(st.lists(TOKENS, max_size=24).map("".join), st.booleans())
def test_what_is_plain_is_what_a_full_decoder_reads(text: str, begun: bool) -> None:
    value = ('{"user":"u","item":"i","ts":1' * begun + text).encode()
    packed, plain = read_plain([value])
    if plain.all():
        event = decode_behavior(value)
        assert packed.tolist() == pack_events([event]).tolist()


@pytest.mark.parametrize(
    "value",
    [
        b'{"user":"u","item":"i","ts":1,"item":"j"}',
        b'{"user":"u","item":"i","ts":1,"ts":2}',
        b'{"user":"u","item":"i"}',
        b'{"user":"u","item":"","ts":1}',
        b'{"user":"","item":"i","ts":1}',
        b'{"user":"u","item":"i","ts":01}',
        b'{"user":"u","item":"i","ts":1}x',
        b'{"user":"u","item":"i","ts":1,}',
        b'{"user":"u","item":"i\x00","ts":1}',
        '{"user":"u","item":"é","ts":1}'.encode(),
        b'{"user":"u","item":"' + b"i" * 129 + b'","ts":1}',
        b'{"user":"u","item":"i","ts":1,"features":{}}',
        b"",
        b"{",
        None,
    ],
)
def test_anything_else_is_left_to_the_full_decoder(value: bytes | None) -> None:
    assert read_plain([value])[1].tolist() == [False]


def test_a_key_that_is_not_the_users_is_not_plain() -> None:
    value = b'{"user":"u","item":"i","ts":1}'
    keys = [b"u", b"v", b"", b"uu", None]
    assert read_plain([value] * 5, keys)[1].tolist() == [True, False, False, False, False]


def test_keys_and_values_belong_together() -> None:
    with pytest.raises(ValueError, match="1 keys of 2 values"):
        read_plain([b"{}", b"{}"], [b"u"])
