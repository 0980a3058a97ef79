"""JSON Schemas say of what comes from outside what its decoders say."""

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.cli.main import main
from stream.cli.topics import schemas
from stream.schema.events import (
    DECODE_ERRORS,
    Score,
    Spent,
    Withdrawal,
    decode_behavior,
    decode_click,
    decode_request,
    encode_json,
)
from stream.schema.features import FeatureDefinition
from stream.settings import Settings, load

FEATURES = {
    "price": FeatureDefinition(of="item", kind="number"),
    "tags": FeatureDefinition(of="item", kind="categories", size=2),
    "hour": FeatureDefinition(of="context", kind="vector", size=2),
    "shop": FeatureDefinition(of="behavior", kind="category"),
}
REFUSING = msgspec.structs.replace(
    Settings(features=FEATURES),
    worker=msgspec.structs.replace(Settings().worker, max_candidates=3, unknown_features="refuse"),
)
SCHEMAS = schemas(REFUSING)
PACKING = REFUSING.feature_schema()

odd: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70_000),
    st.just(2**63),
    st.just(0.5),
    st.sampled_from(["", "a", "x" * 257]),
)
nested = (
    odd | st.lists(odd, max_size=3) | st.dictionaries(st.sampled_from(["price", "tags", "hour", "shop", "no"]), odd)
)


def event(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Events of which one field at most is odd, and any may be missing."""
    names = sorted(fields)
    right = st.fixed_dictionaries(fields)
    changes = st.tuples(st.sampled_from(names), nested) | st.none()
    missing = st.sets(st.sampled_from(names), max_size=1)

    def changed(whole: dict[str, Any], change: tuple[str, Any] | None, left_out: set[str]) -> dict[str, Any]:
        return {
            name: value for name, value in (whole | dict([change] if change else [])).items() if name not in left_out
        }

    return st.builds(changed, right, changes, missing)


ids = st.text("abc", min_size=1, max_size=3)
ts = st.integers(0, 2**48)
features = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "price": st.floats(-1e15, 1e15) | odd,
        "tags": st.lists(ids | st.integers(0, 9), max_size=3),
        "hour": st.lists(st.floats(0, 1), min_size=1, max_size=3),
        "shop": ids | st.integers(0, 9),
        "no": odd,
    },
)
behavior = event(user=ids, item=ids, ts=ts, category=ids | st.none(), action=ids | st.none(), features=features)
candidate = event(item=ids, category=ids | st.none(), features=features)
impression = event(
    request_id=ids,
    user=ids,
    ts=ts,
    slots=st.integers(1, 65535) | st.none(),
    candidates=st.lists(candidate, min_size=1, max_size=4),
    features=features,
)
withdrawal = event(withdraws=ids, user=ids, ts=ts)
click = event(request_id=ids, user=ids, item=ids, ts=ts)


def fits(topic: str, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMAS[topic]).is_valid(value))


def accepted(topic: str, value: Any) -> bool:
    """Whether it is decoded, with features, and has no more candidates than may be."""
    content = json.dumps(value).encode()
    try:
        if topic == "behaviors":
            PACKING.pack_behavior(decode_behavior(content).features)
        elif topic == "clicks":
            decode_click(content)
        else:
            decoded = decode_request(content)
            if isinstance(decoded, Withdrawal):
                return True
            PACKING.pack_context(decoded.features)
            for place, each in enumerate(decoded.candidates):
                PACKING.pack_item(each.features, place)
            return len(decoded.candidates) <= REFUSING.worker.max_candidates
    except DECODE_ERRORS:
        return False
    return True


@pytest.mark.long
@given(st.data())
@pytest.mark.parametrize(
    ("topic", "values"),
    [("behaviors", behavior), ("impressions", impression), ("impressions", withdrawal), ("clicks", click)],
)
def test_a_schema_accepts_what_the_decoder_accepts(
    topic: str, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    value = data.draw(values)
    assert fits(topic, value) == accepted(topic, value)


def test_answers_fit_their_schema() -> None:
    score = Score("r", "u", 1, "sam", 1, 2, ["a", "b"], [0.1, 0.2], [1, 0], 1, 3, Spent(1.0, 2.0, 3.0))
    assert fits("scores", json.loads(encode_json(score)))


def test_every_schema_is_one() -> None:
    for topic, schema in SCHEMAS.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["description"], topic


def test_the_command_prints_them_with_the_topics_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["topics.prefix=shop-", 'features={price={of="item",kind="number"}}']
    assert main(["topics", "schemas", *(word for flag in flags for word in ("--set", flag))]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == schemas(load(overrides=flags))
    assert set(said) == {f"shop-{name}" for name in SCHEMAS}
    assert "price" in said["shop-behaviors"]["properties"]["features"]["anyOf"][0]["properties"]
