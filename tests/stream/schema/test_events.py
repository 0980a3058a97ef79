"""Events are what their JSON says: readers accept what the schema allows, and name the field that it does not."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream.schema.dedup import sample_ids
from stream.schema.events import (
    DECODE_ERRORS,
    Behavior,
    Candidate,
    Click,
    Impression,
    Outcome,
    RequestKey,
    Sample,
    Score,
    SequenceName,
    Spent,
    Team,
    decode_behavior,
    decode_behaviors,
    decode_click,
    decode_impression,
    decode_outcome,
    decode_sample,
    decode_score,
    encode_json,
    encode_packed,
)

ids = st.text(min_size=1, max_size=256)
labels = st.text(max_size=256)
millis = st.integers(0, 2**48)
packed = st.binary(max_size=64)
floats = st.floats(0, 1)


def test_json_as_one_types_it() -> None:
    assert decode_behavior(b'{"user": "ann", "item": "tea", "ts": 1}') == Behavior("ann", "tea", 1, "", "view")
    text = b'{"request_id": "r1", "user": "ann", "ts": 1, "candidates": [{"item": "tea", "category": "drinks"}]}'
    assert decode_impression(text) == Impression("r1", "ann", 1, [Candidate("tea", "drinks")], 10)
    text = b'{"request_id": "r1", "user": "ann", "item": "tea", "ts": 1, "from": "a later version"}'
    assert decode_click(text) == Click("r1", "ann", "tea", 1)


def test_null_in_an_optional_field_means_its_default() -> None:
    text = b'{"user": "ann", "item": "tea", "ts": 1, "category": null, "action": null}'
    assert decode_behavior(text) == Behavior("ann", "tea", 1, "", "view")
    text = (
        b'{"request_id": "r1", "user": "ann", "ts": 1, "slots": null, "more": null,'
        b' "candidates": [{"item": "tea", "category": null}, {"item": "null", "category": "drinks"}]}'
    )
    assert decode_impression(text) == Impression("r1", "ann", 1, [Candidate("tea"), Candidate("null", "drinks")], 10)


@given(event=st.builds(Behavior, ids, ids, millis), null=st.sets(st.sampled_from(["category", "action"])))
def test_a_behaviour_with_nulls_is_the_one_without_these_fields(event: Behavior, null: set[str]) -> None:
    given = msgspec.to_builtins(event)
    assert decode_behavior(encode_json(given | dict.fromkeys(null))) == event


@pytest.mark.parametrize(
    ("decode", "text", "says"),
    [
        (decode_behavior, b"", "truncated"),
        (decode_behavior, b"not json", "malformed"),
        (decode_behavior, b"\xff\xfe", "malformed"),
        (decode_behavior, b"[]", "Expected `object`"),
        (decode_behavior, b'{"user": "ann", "item": "tea"}', "`ts`"),
        (decode_behavior, b'{"user": "", "item": "tea", "ts": 1}', r"\$\.user"),
        (decode_behavior, b'{"user": "ann", "item": 7, "ts": 1}', r"\$\.item"),
        (decode_behavior, b'{"user": "ann", "item": "tea", "ts": -1}', r"\$\.ts"),
        (decode_behavior, b'{"user": "ann", "item": "tea", "ts": 1.5}', r"\$\.ts"),
        (decode_behavior, b'{"user": "ann", "item": "tea", "ts": 300000000000000}', r"\$\.ts"),
        (decode_behavior, b'{"user": "' + b"a" * 257 + b'", "item": "tea", "ts": 1}', r"\$\.user"),
        (decode_behavior, b'{"user": "ann", "item": null, "ts": 1, "category": null}', r"\$\.item"),
        (decode_behavior, b'{"user": "ann", "item": "tea", "ts": 1, "category": null, "action": 7}', r"\$\.action"),
        (decode_impression, b'{"request_id": null, "user": "a", "ts": 1, "candidates": []}', r"request_id"),
        (decode_impression, b'{"request_id": "r", "user": "a", "ts": 1, "candidates": null}', r"candidates"),
        (decode_impression, b'{"request_id": "r", "user": "a", "ts": 1, "candidates": [null]}', r"candidates"),
        (decode_click, b'{"request_id": "r", "user": "a", "item": null, "ts": 1}', r"\$\.item"),
        (decode_impression, b'{"request_id": "r", "user": "a", "ts": 1, "candidates": []}', r"\$\.candidates"),
        (decode_impression, b'{"request_id": "r", "user": "a", "ts": 1, "candidates": ["x"]}', r"candidates"),
        (decode_click, b'{"request_id": "r", "user": "a", "ts": 1}', "`item`"),
    ],
)
def test_what_is_wrong_is_named(decode: Callable[[bytes], object], text: bytes, says: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=says):
        decode(text)


@given(st.builds(Behavior, ids, ids, millis, labels, labels))
def test_behavior_survives_json(event: Behavior) -> None:
    assert decode_behavior(encode_json(event)) == event


@given(
    st.builds(
        Impression,
        ids,
        ids,
        millis,
        st.lists(st.builds(Candidate, ids, labels), min_size=1, max_size=5),
        st.integers(1, 100),
    )
)
def test_impression_survives_json(event: Impression) -> None:
    assert decode_impression(encode_json(event)) == event


@given(st.builds(Click, ids, ids, ids, millis))
def test_click_survives_json(event: Click) -> None:
    assert decode_click(encode_json(event)) == event


def scores(count: int) -> st.SearchStrategy[Score]:
    return st.builds(
        Score,
        request_id=ids,
        user=ids,
        ts=millis,
        arm=ids,
        epoch=millis,
        version=millis,
        items=st.lists(ids, min_size=count, max_size=count),
        probabilities=st.lists(floats, min_size=count, max_size=count),
        order=st.permutations(range(count)).map(list),
        slots=st.integers(1, 10),
        seen=millis,
        spent_ms=st.builds(Spent, floats, floats, floats),
    )


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    count = draw(st.integers(0, 4))
    places = st.lists(st.integers(0, 100), min_size=count, max_size=count)
    clicked = st.lists(st.integers(0, 1), min_size=count, max_size=count)
    items = st.lists(ids, min_size=count, max_size=count)
    probabilities = st.lists(floats, min_size=count, max_size=count)
    build = st.builds(Outcome, ids, ids, ids, millis, millis, millis, items, places, probabilities, clicked, labels)
    return draw(build)


@given(st.integers(0, 4).flatmap(scores))
def test_score_survives_json(event: Score) -> None:
    assert decode_score(encode_json(event)) == event


def test_a_score_with_a_probability_that_is_none_is_refused() -> None:
    good = Score("r", "u", 1, "a", 1, 1, ["x"], [0.5], [0], 1, 0, Spent(0.0, 0.0, 0.0))
    with pytest.raises(msgspec.ValidationError, match="within 0 and 1"):
        decode_score(encode_json(good).replace(b"[0.5]", b"[1.5]"))


@pytest.mark.parametrize("wrong", [{"order": [0, 0]}, {"order": [0, 2]}, {"order": [0]}, {"probabilities": [0.5]}])
def test_a_score_whose_lists_do_not_fit_is_refused(wrong: dict[str, object]) -> None:
    good = {"request_id": "r", "user": "u", "ts": 1, "arm": "a", "epoch": 1, "version": 1, "items": ["x", "y"]}
    good |= {"probabilities": [0.1, 0.2], "order": [1, 0], "slots": 1, "seen": 0}
    good |= {"spent_ms": {"wait": 0.0, "state": 0.0, "score": 0.0}}
    assert decode_score(msgspec.json.encode(good)).items == ["x", "y"]
    with pytest.raises(msgspec.ValidationError, match="do not fit the 2 items"):
        decode_score(msgspec.json.encode(good | wrong))


names = st.builds(SequenceName, millis, millis, st.integers(0, 2**64 - 1))


@given(st.builds(Sample, ids, ids, ids, millis, millis, millis, millis, names, *[packed] * 4))
def test_sample_survives_messagepack(event: Sample) -> None:
    assert decode_sample(encode_packed(event)) == event


def test_a_score_is_divided_into_teams_or_refused() -> None:
    good = Score("r", "u", 1, "m", 1, 1, ["x", "y", "z"], [0.5, 0.1, 0.2], [2, 0, 1], 1, 0, Spent(0.0, 0.0, 0.0), 0)
    whole = [Team("a", 1, 2, [2, 1]), Team("b", 3, 4, [0])]
    mixed = msgspec.structs.replace(good, teams=whole)
    assert decode_score(encode_json(mixed)) == mixed
    for wrong in ([whole[0]], [*whole, whole[1]], [Team("a", 1, 2, [0, 1, 3])]):
        with pytest.raises(msgspec.ValidationError, match="teams do not divide"):
            decode_score(msgspec.json.encode(msgspec.to_builtins(mixed) | {"teams": msgspec.to_builtins(wrong)}))


@given(st.integers(0, 4).flatmap(scores))
def test_a_score_from_before_there_were_teams_is_read(event: Score) -> None:
    old = {name: value for name, value in msgspec.to_builtins(event).items() if name != "teams"}
    assert decode_score(msgspec.json.encode(old)) == event


@given(st.data())
def test_an_outcome_from_before_there_were_teams_is_read_and_a_new_one_by_old_readers(data: st.DataObject) -> None:
    event, old_fields = data.draw(outcomes()), Outcome.__struct_fields__[:10]
    old = tuple(getattr(event, name) for name in old_fields)
    assert decode_outcome(msgspec.msgpack.encode(old)) == msgspec.structs.replace(event, team="")
    reader = msgspec.defstruct("Old", [(name, object) for name in old_fields], array_like=True)
    read = msgspec.msgpack.decode(encode_packed(event), type=reader)
    assert [getattr(read, name) for name in old_fields] == [getattr(event, name) for name in old_fields]


@given(st.data())
def test_outcome_survives_messagepack(data: st.DataObject) -> None:
    event = data.draw(outcomes())
    assert decode_outcome(encode_packed(event)) == event


@example(b"\x9a\xa1\x80")  # text that is no UTF-8
@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_worse(noise: bytes) -> None:
    for decode in (decode_sample, decode_outcome, decode_score, decode_impression):
        with pytest.raises(DECODE_ERRORS):
            decode(noise)


def test_sample_ids_tell_every_pair_of_request_and_item_apart() -> None:
    items = np.arange(1, 1001, dtype=np.uint64) * np.uint64(0x1234_5678_9ABC)
    requests = [RequestKey(user, request_id) for user in ("1", "11", "ann") for request_id in ("1", "11", "1:1", "r")]
    known = np.concatenate([sample_ids(request, items) for request in requests])
    assert len(np.unique(known)) == len(known)
    assert sample_ids(requests[7], items[5:6]) == known[7 * 1000 + 5]


@given(st.tuples(ids, ids), st.tuples(ids, ids))
def test_no_two_requests_are_written_alike(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (RequestKey(*one).text == RequestKey(*other).text) == (one == other)


def test_every_event_of_a_request_names_it() -> None:
    key = RequestKey("ann", "1")
    assert Impression("1", "ann", 5, [Candidate("tea")]).request == key
    assert Click("1", "ann", "tea", 5).request == key
    assert Outcome("1", "ann", "a", 5, 1, 1, [], [], [], []).request == key
    assert Sample("1", "ann", "a", 5, 1, 1, 0, SequenceName(), b"", b"", b"", b"").request == key
    assert Score("1", "ann", 5, "a", 1, 1, [], [], [], 1, 0, Spent(0, 0, 0)).request == key


@pytest.mark.parametrize("wrong", [{"seen": -1}, {"seen": 2**63}, {"epoch": -1}, {"version": 2**63}, {"slots": -1}])
def test_a_score_with_a_number_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    good = {"request_id": "r", "user": "u", "ts": 1, "arm": "a", "epoch": 1, "version": 1, "items": []}
    good |= {"probabilities": [], "order": [], "slots": 1, "seen": 0, "spent_ms": {"wait": 0, "state": 0, "score": 0}}
    assert decode_score(msgspec.json.encode(good)).seen == 0
    with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
        decode_score(msgspec.json.encode(good | wrong))


def test_many_behaviours_are_each_decoded_for_itself() -> None:
    one = encode_json(Behavior("u", "i", 1))
    assert decode_behaviors([one, one]) == [Behavior("u", "i", 1)] * 2
    # As one array, these would be three behaviours, the last of them of two records.
    assert decode_behaviors([one + b"," + one, one[:-1] + b',"features":[{}', b"{}]}"]) is None
