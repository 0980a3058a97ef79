"""Records that cannot be used, on a running system: nothing stops, nothing is lost, the good traffic is untouched."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from stream.errors import EventError, KafkaClientError
from stream.schema.events import Candidate, Sample, decode_score, encode_packed
from stream.schema.partitioner import partition_of
from stream.schema.record import Record
from stream.schema.topics import Topics
from tests.e2e.harness import ITEMS, SLOTS, USERS, WINDOW_S, Harness, wait_for
from tests.e2e.raw import RawWriter, good_sample, now_ms

PARTITIONS = 4
FAR_S = 10 * WINDOW_S
"""Further ahead than the harness lets a clock be."""
HEADERS = ("reason", "topic", "partition", "offset", "timestamp", "refused-by")


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path)


@dataclass(frozen=True)
class Bad:
    """What is written, and what the reason of its dead letter must say."""

    topic: str
    value: bytes | None
    reason: str
    user: str = USERS[0]
    key: bytes | None = b""
    """Of the record; empty for the user's name."""
    shift: int = 0
    """How many partitions beside the user's."""
    by: str = "worker"

    def write(self, raw: RawWriter) -> Record:
        name = self.user.encode()
        partition = (partition_of(name, PARTITIONS) + self.shift) % PARTITIONS
        return raw.write(self.topic, self.value, key=name if self.key == b"" else self.key, partition=partition)


def text(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def bad_behaviors(topic: str) -> list[Bad]:
    user, now = USERS[0], now_ms()
    whole = {"user": user, "item": "item-1", "ts": now}
    ahead = now + round(1000 * FAR_S)
    return [
        Bad(topic, b"no JSON at all", "JSON is malformed"),
        Bad(topic, b"", "truncated"),
        Bad(topic, b"\xff\xfe\x00", "malformed"),
        Bad(topic, b'{"user": "\xff"}', "utf-8"),
        Bad(topic, b"[" * 100_000, "Expected `object`"),
        Bad(topic, b'{"x":' + b"[" * 100_000, "recursion"),
        Bad(topic, b"null", "Expected `object`"),
        Bad(topic, text(user=user, ts=now), "`item`"),
        Bad(topic, text(**whole | {"item": 7}), "$.item"),
        Bad(topic, text(**whole | {"item": ""}), "$.item"),
        Bad(topic, text(**whole | {"item": "x" * 257}), "$.item"),
        Bad(topic, text(**whole | {"ts": "yesterday"}), "$.ts"),
        Bad(topic, text(**whole | {"ts": 1.5e300}), "$.ts"),
        Bad(topic, text(**whole | {"ts": -1}), "$.ts"),
        Bad(topic, text(**whole | {"ts": ahead}), "ahead of the record's timestamp"),
        Bad(topic, text(**whole), "must be its user", key=b"somebody else"),
        Bad(topic, text(**whole), "must be its user", key=None),
        Bad(topic, text(**whole), "another partitioner", shift=1),
        Bad(topic, None, "truncated"),
        Bad(topic, None, "truncated", key=None),
    ]


def bad_impressions(topic: str) -> list[Bad]:
    user, now = USERS[1], now_ms()
    whole = {"request_id": "bad", "user": user, "ts": now, "candidates": [{"item": "item-1"}], "slots": 1}
    many = [{"item": f"item-{number}"} for number in range(10_000)]
    ahead = now + round(1000 * FAR_S)
    return [
        Bad(topic, b"{", "truncated", user),
        Bad(topic, text(**whole | {"candidates": []}), "$.candidates", user),
        Bad(topic, text(**whole | {"candidates": ["item-1"]}), "$.candidates[0]", user),
        Bad(topic, text(**whole | {"candidates": many}), "10000 candidates", user),
        Bad(topic, text(**whole | {"candidates": [{"item": "item-1"}] * 2}), "listed twice", user),
        Bad(topic, text(**whole | {"pad": "x" * 600_000}), "bytes; at most", user),
        Bad(topic, text(**whole | {"slots": 0}), "$.slots", user),
        Bad(topic, text(**whole | {"ts": -1}), "$.ts", user),
        Bad(topic, text(**whole | {"ts": ahead}), "ahead of the record's timestamp", user),
        Bad(topic, text(**whole), "must be its user", user, key=USERS[2].encode()),
        Bad(topic, text(**whole), "another partitioner", user, shift=2),
        Bad(topic, None, "truncated", user),
    ]


def bad_clicks(topic: str) -> list[Bad]:
    user, now = USERS[3], now_ms()
    whole = {"request_id": "nobody asked", "user": user, "item": "item-1", "ts": now}
    ahead = now + round(1000 * FAR_S)
    return [
        Bad(topic, b"click!", "JSON is malformed", user),
        Bad(topic, text(user=user, item="item-1", ts=now), "`request_id`", user),
        Bad(topic, text(**whole | {"ts": -(2**40)}), "$.ts", user),
        Bad(topic, text(**whole | {"ts": ahead}), "ahead of the record's timestamp", user),
        Bad(topic, text(**whole), "must be its user", user, key=None),
        Bad(topic, text(**whole), "another partitioner", user, shift=3),
        Bad(topic, None, "truncated", user),
    ]


MARK = 0x0000_0123_4567_89AB
TS = b"\xcf" + MARK.to_bytes(8, "big")
"""How MessagePack writes `MARK`."""


def damaged_samples(topic: str) -> list[Bad]:
    def change(**fields: bytes | int) -> bytes:
        values = {name: getattr(good_sample("damaged"), name) for name in Sample.__struct_fields__}
        return encode_packed(Sample(**values | fields))

    whole = change()
    return [
        Bad(topic, b"\x00 junk", "Expected `array`", by="trainer"),
        Bad(topic, whole[: len(whole) // 2], "truncated", by="trainer"),
        Bad(topic, b"\x9d\xa2\xff\xfe", "utf-8", by="trainer"),
        Bad(topic, change(items=b"12345"), "buffer size", by="trainer"),
        Bad(topic, change(labels=b"\x00"), "1 labels", by="trainer"),
        Bad(topic, change(labels=b"\x00\x07"), "labels of 0 or 1", by="trainer"),
        Bad(topic, change(sequence=b"odd"), "Expected `array`", by="trainer"),
        Bad(topic, None, "truncated", by="trainer"),
    ]


def letters(harness: Harness) -> list[Message]:
    return harness.messages(harness.topics.dead_letters)


def origin(letter: Message) -> tuple[str, int, int]:
    headers = said(letter)
    return headers["topic"], int(headers["partition"]), int(headers["offset"])


def said(letter: Message) -> dict[str, str]:
    """Return the headers of a dead letter, all of them text."""
    headers: dict[str, bytes] = dict(letter.headers() or ())  # type: ignore[arg-type]
    return {name: value.decode() for name, value in headers.items()}


def check_letters(harness: Harness, expected: list[tuple[Record, str, str]]) -> None:
    """See that the dead letters are those of the (record, reason, by) that are expected, each once and whole."""
    found = letters(harness)
    names = {record.topic for record, _, _ in expected}
    timestamps = {record[:3]: record.timestamp for name in names for record in harness.records(name)}
    by_origin = {origin(letter): letter for letter in found}
    wanted = {record[:3] for record, _, _ in expected}
    assert by_origin.keys() == wanted, (by_origin.keys() - wanted, wanted - by_origin.keys())
    assert len(found) == len(expected), "a record came twice"
    for record, reason, by in expected:
        letter = by_origin[record[:3]]
        headers = said(letter)
        assert (letter.key(), letter.value()) == (record.key, record.value), reason
        assert reason in headers["reason"], (reason, headers["reason"])
        assert headers["refused-by"] == by
        assert int(headers["timestamp"]) == timestamps[record[:3]]
        assert tuple(headers) == HEADERS


def test_what_cannot_be_used_is_kept_among_the_dead_letters_and_the_good_traffic_around_it_is_untouched(
    harness: Harness, kafka: dict[str, str]
) -> None:
    topics = harness.topics
    with harness, RawWriter(kafka) as raw:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker")
        harness.wander(300)
        harness.traffic(5)
        expected: list[tuple[Record, str, str]] = []
        cases = [
            *bad_behaviors(topics.behaviors),
            *bad_impressions(topics.impressions),
            *bad_clicks(topics.clicks),
            *damaged_samples(topics.samples),
        ]
        for number, bad in enumerate(cases):
            record = bad.write(raw)
            harness.unusable.add(record[:3])
            expected.append((record, bad.reason, bad.by))
            if number % 2 == 0:
                harness.ask()
                harness.wander(1)
                harness.react()
        wait_for(
            lambda: len(letters(harness)) >= len(expected), "every bad record's letter", processes=harness.processes
        )
        check_letters(harness, expected)

        # What can be seen to be for nothing only when the window closes, or when it meets its request.
        harness.traffic(10)
        answer = next(iter(harness.answers.values()))
        mate = next(
            user
            for user in (f"stranger-{number}" for number in range(1000))
            if partition_of(user.encode(), PARTITIONS) == partition_of(answer.user.encode(), PARTITIONS)
        )
        for user, click, reason in (
            (USERS[4], {"request_id": "never asked", "item": "item-1", "ts": now_ms()}, "no open impression"),
            (mate, {"request_id": answer.request_id, "item": answer.items[0], "ts": now_ms()}, f"of user '{mate}'"),
            (answer.user, {"request_id": answer.request_id, "item": "never offered", "ts": now_ms()}, "no candidate"),
        ):
            record = Bad(topics.clicks, text(user=user, **click), reason, user).write(raw)
            harness.unusable.add(record[:3])
            expected.append((record, reason, "worker"))
        wait_for(lambda: len(letters(harness)) >= len(expected) - 2, "the click's letter", processes=harness.processes)
        check_letters(harness, [*expected[:-3], expected[-1]])  # those that wait for their windows are not there yet
        harness.settle()
        check_letters(harness, expected)


def test_odd_requests_are_answered_and_what_is_learned_is_the_first_answer(
    harness: Harness, kafka: dict[str, str]
) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker")
        harness.wander(300)
        harness.traffic(5)

        stranger = harness.client.impression("nobody-knows-me", [Candidate(item) for item in ITEMS[:8]], SLOTS)
        harness.asked.append(stranger)
        harness.await_answers()
        answer = harness.answers[stranger]
        assert (answer.seen, answer.items, sorted(answer.order)) == (0, ITEMS[:8], list(range(8)))
        assert all(0 < probability < 1 for probability in answer.probabilities)

        first = harness.answers[harness.asked[0]]
        other = [Candidate(item) for item in ITEMS if item not in first.items][:5]
        harness.client.impression(first.user, [Candidate(item) for item in first.items], SLOTS, first.request_id)
        harness.client.impression(first.user, other, SLOTS, first.request_id)
        item = first.items[first.order[0]]
        for _ in range(3):
            harness.client.click(first.request, item)
        harness.clicked.add((first.request, item))
        harness.traffic(10)

        def answers_of_first() -> int:
            answers = [decode_score(value) for value in harness.read(harness.topics.scores)]
            return len([answer for answer in answers if answer.request == first.request])

        wait_for(lambda: answers_of_first() >= 3, "each to be answered", processes=harness.processes)
        harness.settle()
        assert answers_of_first() == 3
        assert not letters(harness)


def test_a_record_of_5_mb_is_refused_where_it_is_written_and_stops_nothing(
    harness: Harness, kafka: dict[str, str]
) -> None:
    topics, user = harness.topics, USERS[0]
    partition = partition_of(user.encode(), PARTITIONS)
    long = "x" * 200
    five_mb = [Candidate(f"{long}-{number}") for number in range(23_000)]
    with harness, RawWriter(kafka) as raw:
        harness.start_worker("worker", "--set", "worker.model_wait_s=0")
        harness.traffic(3)
        with pytest.raises(EventError, match=r"behavior: .*\$\.item"):
            harness.client.behavior(user, "x" * 5_000_000)
        with pytest.raises(KafkaClientError, match=r"impressions: .*too large"):
            harness.client.impression(user, five_mb)
        for topic in (topics.behaviors, topics.impressions, topics.clicks, topics.samples, topics.model_updates):
            with pytest.raises(KafkaException) as refused:
                raw.write(topic, b"x" * 5_000_000, key=user.encode(), partition=partition if "upd" not in topic else 0)
            assert refused.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE, topic
        harness.traffic(3)
        assert not letters(harness)


def test_a_sample_that_no_worker_could_write_becomes_a_dead_letter_and_the_next_one_is_learned(
    harness: Harness, kafka: dict[str, str]
) -> None:
    whole = encode_packed(good_sample("damaged", ts=MARK))
    assert TS in whole
    damaged = [
        bytes([whole[0] + 1]) + whole[1:] + b"\x91" * 100_000 + b"\xc0",  # one more field, nested without end
        whole.replace(TS, b"\xcf" + b"\xff" * 8),  # a time that no clock shows
    ]
    with harness, RawWriter(kafka) as raw:
        harness.processes.start("trainer", "trainer")
        places = {raw.write(harness.topics.samples, value)[:3]: value for value in damaged}
        raw.write(harness.topics.samples, encode_packed(good_sample("good")))
        wait_for(lambda: harness.trained() >= 2, "the good sample to be learned", processes=harness.processes)
        found = letters(harness)
        assert {origin(letter): letter.value() for letter in found} == places
        assert {said(letter)["refused-by"] for letter in found} == {"trainer"}
        assert harness.trained() == 2


def test_junk_among_the_scores_stops_no_worker_that_starts_and_no_front_end(
    harness: Harness, kafka: dict[str, str]
) -> None:
    junk = [b"junk", None, b"{}", b'{"request_id":"\xff"}', b'{"x":' + b"[" * 100_000]
    with harness, RawWriter(kafka) as raw:

        def litter() -> None:
            for value in junk:
                for partition in range(PARTITIONS):
                    harness.unusable.add(raw.write(harness.topics.scores, value, partition=partition)[:3])

        harness.start_worker("worker-1", "--set", "worker.model_wait_s=0")
        harness.traffic(3)
        harness.end("worker-1")
        litter()  # behind the last answer that the state knows: a worker that starts reads it
        harness.start_worker("worker-2", "--set", "worker.model_wait_s=0")
        harness.traffic(3)
        litter()
        harness.traffic(3)
        assert harness.client.malformed == 2 * len(junk) * PARTITIONS
        harness.check_answers()
