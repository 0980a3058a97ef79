"""Behaviours folded into sequences: to the byte, whatever the batches and the crashes."""

import struct
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.behavior import action_key, category_key, item_key
from stream.schema.record import Record
from tests.state.support import dump
from tests.stream.task.support import LENGTH, TOPICS, USERS, Bench, Log, behavior, click, impression, keys, unread


def by_hand(records: list[Record]) -> dict[str, tuple[int, bytes]]:
    """User → running count and the newest LENGTH behaviours, packed by hand."""
    every: dict[str, list[bytes]] = {user: [] for user in USERS}
    for record in records:
        if record.topic == TOPICS.behaviors and record.value is not None and record.value.startswith(b"{"):
            event = msgspec.json.decode(record.value)
            row = item_key(event["item"]), category_key(event["category"]), action_key(event["action"]), event["ts"]
            every[event["user"]].append(struct.pack("<QIHq", *row))
    return {user: (len(rows), b"".join(rows[-LENGTH:])) for user, rows in every.items()}


@pytest.mark.long
@settings(max_examples=40)
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["behavior"] * 8 + ["impression", "click", "bad"]), st.integers(0, 3)), max_size=120
    ),
    times=st.randoms(use_true_random=False),
    turns=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["go on", "commit", "crash"])), max_size=12),
)
def test_behaviours_fold_to_the_byte_whatever_the_batches_and_the_crashes(
    events: list[tuple[str, int]], times: Any, turns: list[tuple[int, str]]
) -> None:
    log = Log()
    for number, (kind, who) in enumerate(events):
        user, ts = USERS[who], times.randrange(3000)
        if kind == "behavior":
            log.write(behavior(f"i{number % 7}", ts, user=user))
        elif kind == "impression":
            log.write(impression(f"r{number}", ts, user=user))
        elif kind == "click":
            log.write(click("c0", ts, f"r{number - 1}", user=user))
        else:
            log.put(TOPICS.behaviors, b"not JSON", key=user.encode())
    # What has passed, has passed: at the end nothing is open in either.
    log.write(behavior("last", 60_000))
    with tempfile.TemporaryDirectory() as home:
        whole, piecewise = Path(home) / "whole", Path(home) / "piecewise"
        with closing(Bench(whole)) as bench:
            bench.turn(*log.records)
            while bench.turn():
                pass
            bench.task.commit()
        bench = Bench(piecewise)
        place = 0
        for size, then in turns:
            bench.turn(*unread(bench, log.records[place : place + size]))
            place = min(place + size, len(log.records))
            if then == "commit":
                bench.task.commit()
            elif then == "crash":
                bench.close()
                bench = Bench(piecewise)
                bench.turn(*unread(bench, log.records[:place]))
        bench.turn(*unread(bench, log.records[place:]))
        while bench.turn():
            pass
        bench.task.commit()
        for user, (count, packed) in by_hand(log.records).items():
            assert bench.partition.sequences.count(user) == count
            assert bench.task.sequence(user).tobytes() == packed
        bench.close()
        assert dump(piecewise) == dump(whole)


def test_behaviours_of_one_topic_keep_their_order_of_arrival_whatever_their_times(bench: Bench) -> None:
    bench.turn(*Log(behavior("new", 50), behavior("old", 10), behavior("newest", 90)).records)
    assert bench.items() == keys("new", "old", "newest")
