"""Bad records: each is refused with a reason and passed over, and moves no time."""

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.errors import WorkerError
from stream.schema.events import Candidate, encode_json
from stream.schema.topics import RECORD_BYTES
from stream.task.decode import Event
from tests.stream.task.support import (
    LATER,
    NUMBER,
    PARTITIONS,
    STRANGER,
    T0,
    TOPICS,
    USER,
    USERS,
    WINDOW,
    Bench,
    Log,
    batches,
    beginning,
    behavior,
    click,
    impression,
    keys,
)

GOOD = encode_json(behavior("b", 0))
YEAR = 365 * 86_400_000


def timed(event: Event, ts: float) -> bytes:
    return encode_json({**msgspec.to_builtins(event), "ts": ts})


TWICE = msgspec.structs.replace(impression(), candidates=[Candidate("same"), Candidate("other"), Candidate("same")])


@pytest.mark.parametrize(
    ("topic", "value", "changes", "words"),
    [
        (TOPICS.behaviors, b"{not JSON", {}, "malformed"),
        (TOPICS.behaviors, b"", {}, "truncated"),
        (TOPICS.behaviors, None, {}, "truncated"),
        (TOPICS.behaviors, b"\xff\xfe", {}, "malformed"),
        (TOPICS.behaviors, b"[" * 100_000, {}, "object"),
        (TOPICS.behaviors, b'{"x": ' + b"[" * 100_000, {}, "recursion"),
        (TOPICS.behaviors, b'{"user": "\xff", "item": "i", "ts": 1}', {}, "utf-8"),
        (TOPICS.behaviors, b'{"user": "\\ud800", "item": "i", "ts": 1}', {}, "surrogate"),
        (TOPICS.behaviors, b'{"user": "u", "item": "i"}', {}, "`ts`"),
        (TOPICS.behaviors, b'{"user": "u", "item": "", "ts": 1}', {}, r"\$\.item"),
        (TOPICS.behaviors, b'{"user": "u", "item": "i", "ts": "1"}', {}, r"\$\.ts"),
        (TOPICS.behaviors, b'{"user": "u", "item": "i", "ts": -1}', {}, r"\$\.ts"),
        (TOPICS.clicks, b'{"user": "u", "item": "i", "ts": 1}', {}, "`request_id`"),
        (TOPICS.impressions, b'{"request_id": "r", "user": "u", "ts": 1, "candidates": []}', {}, r"\$\.candidates"),
        (TOPICS.behaviors, GOOD, {"key": STRANGER.encode()}, f"must be its user '{USER}', it is b'{STRANGER}'"),
        (TOPICS.behaviors, GOOD, {"key": None}, "it is None"),
        (
            TOPICS.behaviors,
            encode_json(behavior("b", 0, user=STRANGER)),
            {"key": STRANGER.encode()},
            "partitioner=murmur2_random",
        ),
        (TOPICS.behaviors, GOOD, {"partition": NUMBER + 1}, "partitioner=murmur2_random"),
        (
            TOPICS.behaviors,
            GOOD,
            {"partition": NUMBER + 1},
            f"over {PARTITIONS} partitions, unless the number of partitions was changed",
        ),
        (TOPICS.behaviors, encode_json(behavior("b", 5001)), {}, "5001 ms ahead"),
        (TOPICS.impressions, encode_json(impression(ts=5001)), {}, "5001 ms ahead"),
        (TOPICS.clicks, encode_json(click("c0", 5001)), {}, "5001 ms ahead"),
        (
            TOPICS.impressions,
            timed(impression(), T0 // 1000),
            {},
            "19656 days behind .*looks like seconds; write",
        ),
        (TOPICS.clicks, timed(click("c0", 0), T0 // 1000), {}, "19656 days behind .*looks like seconds; write"),
        (TOPICS.clicks, timed(click("c0", 0), 5), {}, "19675 days behind .*worker.max_past_s allows$"),
        (TOPICS.impressions, timed(impression(), T0 - YEAR - 1), {}, "365 days behind .*worker.max_past_s allows$"),
        (TOPICS.clicks, timed(click("c0", 0), T0 - YEAR - 1), {}, "365 days behind .*worker.max_past_s allows$"),
        (TOPICS.behaviors, timed(behavior("b", 0), T0 * 1000), {}, r"\$\.ts`: it looks like microseconds; write milli"),
        (TOPICS.impressions, timed(impression(), T0 * 10**6), {}, r"\$\.ts`: it looks like nanoseconds; write milli"),
        (TOPICS.clicks, timed(click("c0", 0), T0 / 1000 + 0.5), {}, r"\$\.ts`: it looks like seconds; write milli"),
        (TOPICS.behaviors, timed(behavior("b", 0), 1e300), {}, r"\$\.ts`$"),
        (
            TOPICS.behaviors,
            GOOD,
            {"timestamp": T0 // 1000},
            "record's timestamp 1700000000: it looks like seconds",
        ),
        (TOPICS.impressions, encode_json(TWICE), {}, "listed twice"),
        (TOPICS.impressions, encode_json(impression(size=21)), {}, "21 candidates; at most 20"),
        (TOPICS.impressions, encode_json(impression()) + b" " * (RECORD_BYTES // 2), {}, "bytes; at most 450000"),
    ],
)
def test_a_bad_record_is_refused_as_it_is_with_a_reason_and_passed_over(
    bench: Bench, topic: str, value: bytes | None, changes: dict[str, Any], words: str
) -> None:
    log = Log()
    record = log.put(topic, value, **changes)
    log.write(behavior("good", 0))
    assert not bench.turn(*log.records)
    [refused] = bench.refused
    assert refused.record == record
    with pytest.raises(ValueError, match=words):
        raise ValueError(refused.reason)
    assert bench.task.offsets[topic] == sum(known.topic == topic for known in log.records)
    assert bench.items() == keys("good")
    assert bench.task.counts["refused"] == 1


@pytest.mark.parametrize(
    "event",
    [
        behavior("b", 5000),
        behavior("of long ago", -T0 + 5),
        behavior("in seconds, perhaps", T0 // 1000 - T0),
        impression(ts=5000),
        impression(ts=-YEAR),
        impression(size=20),
        click("c0", 5000),
        click("c0", -YEAR),
    ],
)
def test_what_lies_at_a_limit_is_taken(bench: Bench, event: Event) -> None:
    bench.turn(Log().write(event, timestamp=T0))
    assert not bench.refused
    assert bench.task.counts.total() == 1


def test_a_replay_of_long_ago_is_taken_where_it_is_asked_for(path: Path) -> None:
    ago = 20 * YEAR
    log = Log()
    with closing(Bench(path, max_past_s=1e11)) as bench:
        log.write(impression(ts=-ago), timestamp=T0)
        log.write(click("c3", 10 - ago), timestamp=T0)
        assert len(bench.turn(*log.records)) == 1
        assert [sample.labels for sample in bench.samples] == [b"\1"]
        assert not bench.refused


def test_what_unit_times_seem_to_have_is_counted(bench: Bench) -> None:
    log = Log(behavior("b", 0), behavior("b", T0 // 1000 - T0), impression())
    log.put(TOPICS.behaviors, timed(behavior("b", 0), T0 * 1000))
    log.put(TOPICS.clicks, timed(click("c0", 0), T0 // 1000))
    log.put(TOPICS.clicks, b"junk")
    bench.turn(*log.records)
    assert bench.task.units.records == {TOPICS.behaviors: 3, TOPICS.impressions: 1, TOPICS.clicks: 1}
    assert bench.task.units.others == {
        (TOPICS.behaviors, "seconds"): 1,
        (TOPICS.behaviors, "microseconds"): 1,
        (TOPICS.clicks, "seconds"): 1,
    }


def test_the_largest_impression_is_taken(bench: Bench) -> None:
    value = encode_json(impression())
    [asked] = bench.turn(Log().put(TOPICS.impressions, value.ljust(RECORD_BYTES // 2)))
    assert asked.impression == impression()


def test_a_bad_record_is_refused_in_its_turn(bench: Bench) -> None:
    log = Log(behavior("a", 10))
    log.put(TOPICS.behaviors, b"bad")
    log.write(behavior("b", 30))
    log.write(impression(ts=20))
    for batch in batches(log.records):
        bench.task.add(batch)
    turns = [(len(bench.turn(limit=1)), len(bench.items()), len(bench.refused)) for _ in range(4)]
    assert turns == [(0, 1, 0), (0, 1, 1), (1, 1, 1), (0, 2, 1)]


def test_an_event_that_comes_late_turns_no_time_back(bench: Bench) -> None:
    log = Log(impression())
    bench.turn(*log.records, log.write(behavior("x", LATER)), log.write(behavior("late", 50)))
    assert bench.task.open_requests == 0
    assert len(bench.samples) == 1


def test_a_time_that_is_refused_closes_no_window(bench: Bench) -> None:
    log = Log(impression())
    log.put(TOPICS.behaviors, encode_json(behavior("b", 10**9)))
    bench.turn(*log.records)
    assert len(bench.refused) == 1
    assert bench.task.open_requests == 1
    assert not bench.samples


def test_clicks_that_fit_no_label_are_refused_with_their_record(bench: Bench) -> None:
    log = Log(impression())
    bench.turn(*log.records)
    bad = [
        log.write(click("elsewhere", 10)),
        log.write(click("c0", WINDOW + 1)),
    ]
    bench.turn(*bad)
    assert [refused.record for refused in bench.refused] == bad
    for reason, words in zip(bench.reasons(), ["no candidate", "1001 ms after"], strict=True):
        assert words in reason
    assert not bench.samples


def test_a_click_of_another_user_waits_for_that_users_own_impression(bench: Bench) -> None:
    log = Log(impression())
    strangers = [log.write(click("c0", 20, user=user)) for user in USERS[1:3]]
    bench.turn(*log.records)
    assert not bench.refused
    bench.turn(log.write(impression(ts=30, user=USERS[1])))
    assert [(sample.user, sample.request_id, sample.labels) for sample in bench.samples] == [(USERS[1], "r", b"\1")]
    bench.turn(log.write(behavior("x", 30 + LATER)))
    [refused] = bench.refused
    assert refused.record == strangers[1]
    assert f"no open impression with request_id 'r' of user '{USERS[2]}'" in refused.reason


def test_an_offset_that_goes_back_ends_the_work_and_says_where(path: Path) -> None:
    log = Log(*(behavior("b", number) for number in range(8)))
    with closing(Bench(path, beginning(offsets=beginning().offsets | {TOPICS.behaviors: 5}))) as bench:
        with pytest.raises(WorkerError, match=rf"behaviors/{NUMBER} went back from offset 5 to 4"):
            bench.turn(log.records[4])
        bench.turn(log.records[5], log.records[7])
        with pytest.raises(WorkerError, match="went back from offset 8 to 7"):
            bench.turn(log.records[7])
        assert bench.task.offsets[TOPICS.behaviors] == 8, "Kafka may leave offsets out"
