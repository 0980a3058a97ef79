"""What callers send: the same is refused as by a worker, each time with the field."""

from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.gateway.bodies import decode_click_request, decode_rank
from stream.gateway.checker import EventChecker, NewRecord
from stream.gateway.problems import ProblemError, unusable
from stream.schema.events import decode_behavior, decode_impression
from stream.schema.record import Record
from stream.schema.topics import Topics
from stream.settings import convert
from stream.task.decode import RecordDecoder

NOW = 1_700_000_000_000
TOPICS = Topics()
SETTINGS = convert(
    {
        "worker": {"max_candidates": 4, "unknown_features": "refuse"},
        "features": {"price": {"of": "item", "kind": "number"}, "hour": {"of": "context", "kind": "number"}},
        "gateway": {"max_lines": 3},
    }
)
PARTITIONS = 8
WORKER = RecordDecoder(TOPICS, SETTINGS.worker, SETTINGS.feature_schema(), partitions=PARTITIONS)
GOOD: dict[str, Any] = {"user": "u", "candidates": [{"item": "a"}, {"item": "b", "category": "c"}]}


@cache
def checker() -> EventChecker:
    return EventChecker(TOPICS, SETTINGS, partitions=PARTITIONS, now_ms=lambda: NOW)


def rank(body: Any) -> NewRecord:
    """Return the record of a body, as the routes make it."""
    try:
        return checker().impression(decode_rank(msgspec.json.encode(body)))[1]
    except msgspec.ValidationError as error:
        raise unusable(error) from None


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"user": 5}, "/user"),
        ({"user": ""}, "/user"),
        ({"user": "u" * 257}, "/user"),
        ({"request_id": ""}, "/request_id"),
        ({"candidates": []}, "/candidates"),
        ({"candidates": [{"item": "a"}, {"item": "a"}]}, "/candidates"),
        ({"candidates": [{"item": f"i{number}"} for number in range(5)]}, "/candidates"),
        ({"candidates": [{"item": "a"}, {}]}, "/candidates/1/item"),
        ({"candidates": [{"item": "a", "category": "c" * 257}]}, "/candidates/0/category"),
        ({"candidates": [{"item": "a", "features": {"price": "dear"}}]}, "/candidates/0/features/price"),
        ({"candidates": [{"item": "a", "features": {"price": 10**40}}]}, "/candidates/0/features/price"),
        ({"features": {"nobody": 1}}, "/features"),
        ({"features": [1]}, "/features"),
        ({"slots": 0}, "/slots"),
        ({"slots": "3"}, "/slots"),
        ({"ts": NOW + 5001}, "/ts"),
        ({"ts": NOW // 1000}, "/ts"),
        ({"ts": 1.5}, "/ts"),
        ({"ts": -1}, "/ts"),
    ],
)
def test_a_field_that_no_worker_would_take_is_named(change: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ProblemError) as raised:
        rank(GOOD | change)
    [error] = raised.value.errors
    assert raised.value.status == 422
    assert error.pointer == pointer
    assert error.detail


def test_what_is_left_out_or_null_has_its_default() -> None:
    value = rank(GOOD | {"ts": None, "slots": None, "request_id": None, "features": None}).value
    impression = decode_impression(value)
    assert (impression.ts, impression.slots, len(impression.request_id)) == (NOW, 10, 32)
    assert decode_impression(rank(GOOD).value).request_id != impression.request_id
    assert b"null" not in value


def test_a_click_is_a_label_and_a_behaviour() -> None:
    body = b'{"user":"u","request_id":"r","item":"a","category":"c","features":{"price":3}}'
    click, records = checker().click(decode_click_request(body))
    assert (click.item, click.ts) == ("a", NOW)
    assert [record.topic for record in records] == [TOPICS.clicks, TOPICS.behaviors]
    behavior = decode_behavior(records[1].value)
    assert (behavior.action, behavior.category, behavior.ts) == ("click", "c", NOW)


def test_of_a_bulk_with_bad_lines_each_is_named_and_none_is_made() -> None:
    body = b'{"user":"u","item":"a"}\r\n\n{"user":"u"}\n{"user":"u","item":'
    with pytest.raises(ProblemError) as raised:
        checker().behaviors(body)
    assert [(error.line, error.pointer) for error in raised.value.errors] == [(3, "/item"), (4, "")]
    assert "2 of 3 lines" in raised.value.detail
    assert len(checker().behaviors(b'{"user":"u","item":"a"}\n\n{"user":"v","item":"b"}')) == 2


@pytest.mark.parametrize(("body", "status"), [(b"", 422), (b"\n \n", 422), (b'{"user":"u","item":"a"}\n' * 4, 413)])
def test_a_bulk_without_lines_or_with_too_many_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(ProblemError) as raised:
        checker().behaviors(body)
    assert raised.value.status == status


def test_an_impression_too_large_to_be_answered_is_refused() -> None:
    settings = convert({"worker": {"max_candidates": 5000}})
    wide = EventChecker(TOPICS, settings, partitions=1, now_ms=lambda: NOW)
    body = {"user": "u", "candidates": [{"item": f"{number:0>200}"} for number in range(3000)]}
    with pytest.raises(ProblemError) as raised:
        wide.impression(decode_rank(msgspec.json.encode(body)))
    assert raised.value.status == 413


TEXT = st.text(max_size=300)
VALUES: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
OBJECTS = st.dictionaries(st.sampled_from(["price", "hour", "other"]), VALUES, max_size=2)
CANDIDATES = st.lists(
    st.fixed_dictionaries({"item": TEXT | VALUES}, optional={"category": TEXT | VALUES, "features": OBJECTS | VALUES}),
    max_size=5,
)
BODIES = st.fixed_dictionaries(
    {"user": TEXT | VALUES, "candidates": CANDIDATES | VALUES},
    optional={"slots": VALUES, "ts": VALUES, "request_id": VALUES, "features": OBJECTS | VALUES, "more": VALUES},
)


@given(BODIES)
def test_whatever_is_sent_is_refused_or_taken_by_a_worker(body: Any) -> None:
    try:
        record = rank(body)
    except ProblemError:
        return
    key = record.user.encode()
    partition = checker().partition(record.user)
    WORKER.decode(Record(record.topic, partition, 0, NOW, key, record.value))
