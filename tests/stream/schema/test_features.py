"""Features of callers: what is packed is what was given, and what cannot be used is named."""

import json
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.behavior import BEHAVIOR, category_key
from state.feature_layout import FeatureLayout, parse_layout
from state.records import fields_of
from stream.schema.features import MAX_OBJECT_BYTES, NO_FEATURES, FeatureDefinition, FeatureSchema, Given

DEFINITIONS = {
    "price": FeatureDefinition(of="item", kind="number"),
    "brand": FeatureDefinition(of="item", kind="category"),
    "tags": FeatureDefinition(of="item", kind="categories", size=3),
    "picture": FeatureDefinition(of="item", kind="vector", size=2),
    "dwell": FeatureDefinition(of="behavior", kind="number", default=1.5),
    "hour": FeatureDefinition(of="context", kind="number"),
    "tier": FeatureDefinition(of="user", kind="category", default="basic"),
}
SCHEMA = FeatureSchema(DEFINITIONS)
STRICT = FeatureSchema(DEFINITIONS, refuse_unknown=True)
LAYOUT = SCHEMA.layout
LARGEST = 1e15

Text = st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1)
Number = st.floats(-LARGEST, LARGEST, allow_subnormal=False).map(lambda number: number if abs(number) > 1e-30 else 0.0)
VALUES = {
    "number": Number,
    "category": Text,
    "categories": st.lists(Text, max_size=3),
    "vector": st.lists(Number, min_size=2, max_size=2),
}


def raw(value: Any) -> Given:
    return msgspec.Raw(json.dumps(value).encode())


def of(*groups: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of the features of these, each given, null, or not there; with names that nobody defined."""
    optional = {
        name: st.none() | VALUES[definition.kind] for name, definition in DEFINITIONS.items() if definition.of in groups
    }
    unknown = st.dictionaries(st.sampled_from(["x", "$.price", "item"]), st.integers() | st.lists(st.booleans()))
    return st.builds(lambda known, rest: rest | known, st.fixed_dictionaries({}, optional=optional), unknown)


def expected(name: str, values: dict[str, Any]) -> Sequence[float]:
    """What a field holds, said anew."""
    definition, value = DEFINITIONS[name], values.get(name)
    if definition.kind in ("number", "category") and value is None:
        value = definition.default
    size = {each: size for each, _, size in fields_of(LAYOUT.behavior)}.get(name, 1)
    match definition.kind:
        case "number" | "vector":
            numbers = [math.nan] * size if value is None else value if isinstance(value, list) else [value]
            return [float(np.float32(number)) for number in numbers]
        case _:
            texts = [] if value is None else value if isinstance(value, list) else [value]
            return [category_key(str(text)) for text in texts] + [0] * (size - len(texts))


def check(packed: bytes, record: np.dtype[np.void], values: dict[str, Any]) -> None:
    [found] = np.frombuffer(packed, record)
    for name in record.names or ():
        np.testing.assert_array_equal(found[name], expected(name, values), err_msg=name)


def without_behavior() -> np.dtype[np.void]:
    """What stands behind the fields of `BEHAVIOR`."""
    return np.dtype([(name, kind, (size,)) for name, kind, size in fields_of(LAYOUT.behavior)])


@given(of("item"), of("item", "behavior"), of("context", "user"))
def test_a_record_holds_what_was_given(item: dict[str, Any], past: dict[str, Any], request: dict[str, Any]) -> None:
    check(SCHEMA.pack_item(raw(item), 0), LAYOUT.item, item)
    check(SCHEMA.pack_behavior(raw(past)), without_behavior(), past)
    check(SCHEMA.pack_context(raw(request)), LAYOUT.context, request)
    assert LAYOUT.behavior.itemsize == BEHAVIOR.itemsize + without_behavior().itemsize


@pytest.mark.parametrize("nothing", [msgspec.UNSET, msgspec.Raw(b"null"), msgspec.Raw(b"{}")])
def test_what_is_not_given_is_missing_or_the_default_and_is_counted(nothing: Given) -> None:
    schema = FeatureSchema(DEFINITIONS)
    check(schema.pack_item(nothing, 0), LAYOUT.item, {})
    check(schema.pack_context(nothing), LAYOUT.context, {})
    check(schema.pack_behavior(nothing), without_behavior(), {})
    [context] = np.frombuffer(schema.pack_context(nothing), LAYOUT.context)
    assert context["tier"] == category_key("basic")
    both = dict.fromkeys(("brand", "picture", "price", "tags"), 2)
    assert schema.missing == both | {"hour": 2, "tier": 2, "dwell": 1}
    schema.pack_context(raw({"hour": 3}))
    assert (schema.missing["hour"], schema.missing["tier"]) == (2, 3)


WRONG: list[tuple[str, str, str]] = [
    ('{"price": "3"}', "Expected `float", "price"),
    ('{"price": true}', "got `bool`", "price"),
    ('{"price": [3]}', "got `array`", "price"),
    ('{"price": {"value": 3}}', "got `object`", "price"),
    ('{"price": 1e308}', "<= 1000000000000000", "price"),
    ('{"price": -1.1e15}', ">= -1000000000000000", "price"),
    ('{"price": 1e400}', "out of range", "price"),
    (f'{{"price": {"9" * 400}}}', "out of range", "price"),
    ('{"brand": true}', "got `bool`", "brand"),
    ('{"brand": 1.5}', "got `float`", "brand"),
    (f'{{"brand": {2**63}}}', "Expected `int` <=", "brand"),
    (f'{{"brand": "{"x" * 300}"}}', "length <= 256", "brand"),
    ('{"brand": ["a"]}', "got `array`", "brand"),
    ('{"tags": "a"}', "got `str`", "tags"),
    ('{"tags": ["a", "b", "c", "d"]}', "length <= 3", "tags"),
    ('{"tags": ["a", null]}', "got `null`", "tags[1]"),
    ('{"picture": [1]}', "length >= 2", "picture"),
    ('{"picture": [1, 2, 3]}', "length <= 2", "picture"),
    ('{"picture": [1, null]}', "got `null`", "picture[1]"),
    ('{"picture": [1, 1e16]}', "<= 1000000000000000", "picture[1]"),
    ('{"picture": 5}', "got `int`", "picture"),
]


@pytest.mark.parametrize(("content", "words", "field"), WRONG)
def test_what_cannot_be_used_is_named_by_its_path(content: str, words: str, field: str) -> None:
    given = msgspec.Raw(content.encode())
    with pytest.raises(ValueError, match="at `") as refused:
        SCHEMA.pack_item(given, 3)
    assert words in str(refused.value)
    assert str(refused.value).endswith(f" - at `$.candidates[3].features.{field}`")
    with pytest.raises(ValueError, match="at `") as refused:
        SCHEMA.pack_behavior(given)
    assert str(refused.value).endswith(f" - at `$.features.{field}`")


@pytest.mark.parametrize("content", ["[]", "5", '"text"', "true"])
def test_features_that_are_no_object_are_refused(content: str) -> None:
    with pytest.raises(ValueError, match=r"Expected `object`, got .* - at `\$\.features`"):
        SCHEMA.pack_context(msgspec.Raw(content.encode()))


@pytest.mark.parametrize("value", [b'"\xff"', b'{"a": ["\xff"]}', b"[" * 8000 + b"]" * 8000])
def test_a_text_that_is_not_utf_8_and_what_is_nested_too_deeply_are_named(value: bytes) -> None:
    content = b'{"price": 1, "brand": ' + value + b"}"
    with pytest.raises(ValueError, match=r" - at `\$\.features\.brand`"):
        SCHEMA.pack_behavior(msgspec.Raw(content))


def test_of_a_name_that_comes_twice_the_last_counts() -> None:
    check(SCHEMA.pack_item(msgspec.Raw(b'{"price": 1, "price": 2}'), 0), LAYOUT.item, {"price": 2})


def test_a_thousand_unknown_names_are_ignored_or_the_first_is_named() -> None:
    many = {f"unknown-{number}": number for number in range(700)} | {"price": 2.0}
    check(SCHEMA.pack_item(raw(many), 0), LAYOUT.item, {"price": 2.0})
    with pytest.raises(ValueError, match=r"unknown field `unknown-0` - at `\$\.candidates\[7\]\.features`"):
        STRICT.pack_item(raw(many), 7)
    check(STRICT.pack_item(raw({"price": 2.0}), 0), LAYOUT.item, {"price": 2.0})


@pytest.mark.parametrize("name", ["$x", "`$", "a` - at `b"])
def test_an_unknown_name_is_told_as_it_is(name: str) -> None:
    with pytest.raises(ValueError, match="unknown field") as refused:
        STRICT.pack_context(raw({name: 1}))
    assert str(refused.value).startswith(f"Object contains unknown field `{name}")


def test_a_feature_of_something_else_is_unknown_there() -> None:
    for pack, name in ((STRICT.pack_context, "price"), (STRICT.pack_behavior, "hour")):
        with pytest.raises(ValueError, match=f"unknown field `{name}`"):
            pack(raw({name: 1}))
    with pytest.raises(ValueError, match="unknown field `dwell`"):
        STRICT.pack_item(raw({"dwell": 1}), 0)


def test_an_object_of_too_many_bytes_is_refused_without_being_read() -> None:
    room = MAX_OBJECT_BYTES - len('{"x": ""}')
    check(SCHEMA.pack_item(raw({"x": "y" * room}), 0), LAYOUT.item, {})
    with pytest.raises(ValueError, match=rf"`\$\.features`: {MAX_OBJECT_BYTES + 1} bytes; at most {MAX_OBJECT_BYTES}"):
        SCHEMA.pack_behavior(raw({"x": "y" * (room + 1)}))
    with pytest.raises(ValueError, match=r"`\$\.candidates\[2\]\.features`: 65536 bytes"):
        SCHEMA.pack_item(msgspec.Raw(b"[" * 65_536), 2)


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_whatever_the_bytes_it_is_a_record_or_a_value_error(content: bytes) -> None:
    try:
        packed = SCHEMA.pack_item(msgspec.Raw(content), 0)
    except ValueError as error:
        words = str(error)
    else:
        words = f"{len(packed)} bytes at $.candidates[0].features"
        assert len(packed) == LAYOUT.item.itemsize
    assert "$.candidates[0].features" in words


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (FeatureDefinition(of="item", kind="vector"), "needs its size"),
        (FeatureDefinition(of="item", kind="number", size=2), "a number has size 1"),
        (FeatureDefinition(of="item", kind="category", size=2), "a category has size 1"),
        (FeatureDefinition(of="item", kind="categories", size=17), "at most 16"),
        (FeatureDefinition(of="item", kind="number", default="x"), "is none for kind 'number'"),
        (FeatureDefinition(of="item", kind="category", default=1.0), "is none for kind 'category'"),
        (FeatureDefinition(of="item", kind="categories", default="x"), "is none for kind"),
        (FeatureDefinition(of="item", kind="vector", size=2, default=1.0), "is none for kind"),
        (FeatureDefinition(of="item", kind="number", default=math.nan), "within"),
        (FeatureDefinition(of="item", kind="number", default=1e16), "within"),
    ],
)
def test_what_cannot_be_defined(definition: FeatureDefinition, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        definition.feature("x")


def test_without_features_records_are_empty_and_nothing_is_read() -> None:
    assert not NO_FEATURES
    assert NO_FEATURES.layout.text == ""
    assert NO_FEATURES.layout == parse_layout("")
    assert NO_FEATURES.layout.behavior == BEHAVIOR
    assert NO_FEATURES.pack_item(raw({"price": 5}), 0) == b""
    with pytest.raises(ValueError, match="unknown field `price`"):
        FeatureSchema({}, refuse_unknown=True).pack_item(raw({"price": 5}), 0)


def test_a_layout_is_the_same_whatever_the_order_and_survives_as_text() -> None:
    features = [definition.feature(name) for name, definition in DEFINITIONS.items()]
    assert FeatureLayout.of(reversed(features)) == LAYOUT == parse_layout(LAYOUT.text)
    with pytest.raises(ValueError, match="no layout of features"):
        parse_layout('[[["a", "<i8", 1]], [], []]')
    for damaged in ("x", "[[],[]]", '[[["a", "<f4", 0]], [], []]', '[[["a", "<f4", 1], ["a", "<f4", 1]], [], []]'):
        with pytest.raises(ValueError, match="no layout"):
            parse_layout(damaged)
