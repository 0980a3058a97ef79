"""Behaviours decoded in batches are what they are one by one: same events, refusals and reasons, in the same order."""

import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.behavior import action_key, category_key, item_key
from stream.schema.erasures import EraseMarker, encode_marker
from stream.schema.events import DECODE_ERRORS, Behavior, encode_json
from stream.schema.record import Record
from stream.task import plain_behaviors
from stream.task.behavior_columns import BehaviorColumns
from stream.task.decode import RecordDecoder
from tests.stream.task import hostile
from tests.stream.task.support import NUMBER, PARTITIONS, SETTINGS, STRANGER, T0, TOPICS, USERS, batches, behavior

Told = list[tuple[Any, ...]]


def decoder() -> RecordDecoder:
    return RecordDecoder(TOPICS, SETTINGS, partitions=PARTITIONS, columns_from=1)


def one_by_one(records: list[Record], one: RecordDecoder) -> Told:
    told: Told = []
    for record in records:
        try:
            told.append(told_of(record, one.decode(record)))
        except DECODE_ERRORS as error:
            told.append((record.offset, str(error)))
    return told


def in_batches(records: list[Record], several: RecordDecoder) -> tuple[Told, int]:
    """Return what batches say, and how many records came as columns."""
    told: Told = []
    columns = 0
    for batch in batches(records):
        for piece in several.decode_batch(batch):
            if isinstance(piece, BehaviorColumns):
                columns += len(piece)
                where = zip(piece.offsets.tolist(), piece.timestamps.tolist(), piece.users.tolist(), strict=True)
                told += [(*at, *packed) for at, packed in zip(where, piece.packed.tolist(), strict=True)]
            else:
                record, event = batch.record(piece[0]), piece[1]
                told.append((record.offset, str(event)) if isinstance(event, Exception) else told_of(record, event))
    return told, columns


def told_of(record: Record, event: Any) -> tuple[Any, ...]:
    if isinstance(event, EraseMarker):
        return record.offset, "marker", event.user
    assert isinstance(event, Behavior)
    keys = item_key(event.item), category_key(event.category), action_key(event.action)
    return record.offset, record.timestamp, event.user, *keys, event.ts


def written(values: list[tuple[bytes | None, bytes | None]]) -> list[Record]:
    return [Record(TOPICS.behaviors, NUMBER, offset, T0, key, value) for offset, (key, value) in enumerate(values)]


GOOD = encode_json(behavior("a", 0))
UNUSUAL: list[bytes | None] = [
    None,
    b"",
    encode_marker(USERS[0]),
    GOOD.replace(b'"buy"', b"null"),
    GOOD.replace(b'"a"', b'"\\u00e9\\ud83d\\ude00"'),
    GOOD.replace(b'"a"', b'"\\ud83d"'),
    GOOD.replace(b'"a"', '"é☃"'.encode()),
    GOOD.replace(b'"a"', b'"\xff"'),
    GOOD.replace(b"{", b'{"features":{"price":[1,{"x":"}"}]},', 1),
    GOOD.replace(b"{", b'{"features":' + b"[" * 2000, 1),
    b" \n\t" + GOOD + b" \r\n",
    b"\xef\xbb\xbf" + GOOD,
    GOOD[:-1],
    GOOD + b",",
    GOOD + b"," + GOOD,
    b"[" + GOOD + b"]",
    *(GOOD.replace(str(T0).encode(), ts) for ts in (b"1767225600", b"17e11", str(T0 + 5001).encode(), b"NaN")),
    GOOD.replace(str(T0).encode(), str(T0 + 5000).encode()),
]


@pytest.mark.parametrize(
    "pieces",
    [
        [GOOD + b"," + GOOD, GOOD[:-20], b'"x":1}'],
        [GOOD + b"," + GOOD, b'{"user":"x}', b'{","item":"i","ts":1}'],
        [GOOD + b"," + GOOD, GOOD[:-1] + b',"features":[{}', b"{}]}"],
        [GOOD[:-1] + b',"x":[1', b"1]},{" + GOOD[1:]],
        [GOOD[:-1] + b',"x":1', b'"y":2}'],
    ],
)
def test_records_that_are_json_only_together_are_each_refused_and_swallow_no_neighbour(pieces: list[bytes]) -> None:
    key = USERS[0].encode()
    records = written([(key, GOOD), *((key, piece) for piece in pieces), (key, GOOD)])
    told, columns = in_batches(records, decoder())
    assert columns == 2
    assert told == one_by_one(records, decoder())
    assert [len(each) for each in told] == [7, *[2] * len(pieces), 7]


def test_those_would_be_json_if_they_were_joined() -> None:
    joined = b"[" + b",".join([GOOD + b"," + GOOD, GOOD[:-1] + b',"features":[{}', b"{}]}"]) + b"]"
    assert [event["item"] for event in json.loads(joined)] == ["a", "a", "a"]


def damaged(seed: int) -> bytes:
    rng = random.Random(seed)
    return hostile.damaged(rng, hostile.good(rng, TOPICS.behaviors, USERS[0], 0))


Values = st.lists(
    st.tuples(
        st.sampled_from([USERS[0].encode()] * 4 + [USERS[1].encode(), STRANGER.encode(), None, b"", b"\xff"]),
        st.one_of(
            st.sampled_from([GOOD, *(encode_json(behavior(f"i{n}", n, user=user)) for n, user in enumerate(USERS))]),
            st.just(encode_json(behavior("elsewhere", 0, user=STRANGER))),
            st.sampled_from(UNUSUAL),
            st.integers(0, 2**32).map(damaged),
        ),
    ),
    max_size=40,
)


@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=100)
@given(Values, st.integers(1, 2))
def test_batches_say_what_records_say(
    compiled: bool, values: list[tuple[bytes | None, bytes | None]], times: int
) -> None:
    one, several = decoder(), decoder()
    records = written(values)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(plain_behaviors, "_library", lambda: None)
        for _ in range(times):  # keys are known the second time
            assert in_batches(records, several)[0] == one_by_one(records, one)
    assert +Counter(several.units.records) == Counter(one.units.records)
    assert several.units.others == one.units.others


def test_good_behaviours_come_as_columns_and_their_parts_are_views() -> None:
    records = written([(user.encode(), encode_json(behavior("a", n, user=user))) for n, user in enumerate(USERS)])
    [batch] = batches(records)
    [columns] = decoder().decode_batch(batch)
    assert isinstance(columns, BehaviorColumns)
    assert columns.users.tolist() == USERS
    part = columns.part(1, 3)
    assert part.offsets.tolist() == [1, 2]
    assert np.shares_memory(part.packed, columns.packed)
