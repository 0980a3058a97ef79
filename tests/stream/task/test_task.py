"""One partition's work: what is folded, asked, labelled, refused, and what a crash leaves of it."""

import dataclasses
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.behavior import action_key, category_key, from_bytes, item_key
from state.layout import CHUNK
from state.partition import Partition
from stream.errors import WorkerError
from stream.schema.events import (
    Behavior,
    Candidate,
    Click,
    Impression,
    Outcome,
    Sample,
    Score,
    Spent,
    decode_score,
    encode_json,
    encode_packed,
)
from stream.schema.partitioner import partition_of
from stream.schema.record import Record
from stream.schema.topics import RECORD_BYTES, Topics
from stream.settings import WorkerSettings
from stream.task.answer import Answer
from stream.task.decode import Event
from stream.task.resume import Start
from stream.task.task import Refused, Request, Task
from stream.worker.scoring import drafted
from tests.state.support import dump

PARTITIONS, NUMBER = 4, 2
USERS = [user for user in map("user-{}".format, range(40)) if partition_of(user.encode(), PARTITIONS) == NUMBER][:4]
USER = USERS[0]
STRANGER = next(user for user in map("user-{}".format, range(40)) if partition_of(user.encode(), PARTITIONS) != NUMBER)
LENGTH, SLACK = 10, 6
T0 = 1_700_000_000_000
WINDOW, LATENESS, IDLE_S, ALIGN_S = 1000, 100, 5.0, 2.0
TOPICS = Topics()
PRECEDENCE = (TOPICS.impressions, TOPICS.clicks, TOPICS.behaviors)
SETTINGS = WorkerSettings(
    attribution_window_s=WINDOW / 1000,
    lateness_s=LATENESS / 1000,
    idle_s=IDLE_S,
    align_s=ALIGN_S,
    max_candidates=20,
    max_future_s=5.0,
    max_impression_age_s=300.0,
)


def behavior(item: str, ts: int, *, user: str = USER) -> Behavior:
    """Times are milliseconds after T0."""
    return Behavior(user, item, T0 + ts, f"category of {item}", "buy")


def impression(request_id: str = "r", ts: int = 0, *, user: str = USER, size: int = 4, slots: int = 2) -> Impression:
    candidates = [Candidate(f"c{index}", "food" if index else "") for index in range(size)]
    return Impression(request_id, user, T0 + ts, candidates, slots)


def click(item: str, ts: int, request_id: str = "r", *, user: str = USER) -> Click:
    return Click(request_id, user, item, T0 + ts)


class Log:
    """The three topics of the partition: what is written gets its offset; a record is as old as its event."""

    def __init__(self, *events: Event) -> None:
        self.records: list[Record] = []
        self._next: Counter[str] = Counter()
        for event in events:
            self.write(event)

    def write(self, event: Event, **changes: Any) -> Record:
        topic = {Behavior: TOPICS.behaviors, Impression: TOPICS.impressions, Click: TOPICS.clicks}[type(event)]
        return self.put(topic, encode_json(event), **{"key": event.user.encode(), "timestamp": event.ts, **changes})

    def put(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = USER.encode(),
        partition: int = NUMBER,
        timestamp: int = T0,
    ) -> Record:
        record = Record(topic, partition, self._next[topic], timestamp, key, value)
        self._next[topic] += 1
        self.records.append(record)
        return record


def beginning(**changes: Any) -> Start:
    ends = {TOPICS.impressions: changes.pop("impressions_end", 0), TOPICS.behaviors: changes.pop("behaviors_end", 0)}
    start = Start(dict.fromkeys((*PRECEDENCE, TOPICS.scores), 0), {}, 0, 0, {TOPICS.clicks: 0, **ends})
    return Start(**{name: changes.get(name, getattr(start, name)) for name in Start.__dataclass_fields__})


def reversing(request: Request, version: int = 1) -> Answer:
    """The last candidate is the best."""
    count = len(request.impression.candidates)
    probabilities = (np.arange(1, count + 1) / (count + 1 + version)).astype(np.float32)
    return Answer("reversing", 1, version, probabilities, np.argsort(-probabilities, kind="stable"))


def mixing(request: Request, version: int = 1) -> Answer:
    """A list that `reversing` and its opposite have drafted."""
    one, other = reversing(request, version), reversing(request, version)
    order = other.order[::-1]
    forward = dataclasses.replace(other, arm="forward", probabilities=other.probabilities[::-1], order=order)
    return drafted("mixed", one, forward, request.impression.request_id)


def score_of(request: Request, answer: Answer) -> Score:
    """What the worker tells Kafka, as it is read again."""
    asked = request.impression
    score = Score(
        asked.request_id,
        asked.user,
        asked.ts,
        answer.arm,
        answer.epoch,
        answer.version,
        [candidate.item for candidate in asked.candidates],
        answer.probabilities.tolist(),
        answer.order.tolist(),
        asked.slots,
        request.seen,
        Spent(0.0, 0.0, 0.0),
        request.read_to,
        list(answer.teams),
    )
    return decode_score(encode_json(score))


class Bench:
    """A task on a state in a directory, driven as the worker drives it; collects what comes out."""

    def __init__(
        self,
        path: Path,
        start: Start | None = None,
        *,
        version: int = 1,
        answering: Callable[[Request, int], Answer] = reversing,
        **changes: Any,
    ) -> None:
        self.partition = Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=20_000)
        self.start = start or beginning(offsets=beginning().offsets | dict(self.partition.offsets))
        changed = msgspec.structs.replace(SETTINGS, **changes)
        self.task = Task(self.partition, TOPICS, changed, self.start, partitions=PARTITIONS)
        self.version, self.answering = version, answering
        self.scores: dict[str, Score] = {}
        self.samples: list[Sample] = []
        self.outcomes: list[Outcome] = []
        self.refused: list[Refused] = []

    def turn(
        self,
        *records: Record,
        now: float = 0.0,
        wall: int = 0,
        limit: int = 1000,
        lagging: Collection[str] = (),
    ) -> list[Request]:
        """Do one turn of the worker, without the commit; returns what was asked.

        `lagging` are the topics that have more than what was read.
        """
        for record in records:
            self.task.add(record)
        requests = self.task.step(lambda topic: topic not in lagging, now=now, wall_ms=T0 + wall, limit=limit)
        for request in requests:
            answer = self.answering(request, self.version)
            self.task.scored(request, answer)
            self.scores.setdefault(request.impression.request_id, score_of(request, answer))
        self.settle()
        return requests

    def settle(self) -> None:
        results, refused = self.task.settle()
        self.samples += [sample for sample, _ in results]
        self.outcomes += [outcome for _, outcome in results]
        self.refused += refused

    def reasons(self) -> list[str]:
        return [refusal.reason for refusal in self.refused]

    def items(self, user: str = USER) -> list[int]:
        """The user's items, oldest first, as keys."""
        return keys_in(self.task.sequence(user).tobytes())

    def close(self) -> None:
        self.task.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partition"


@pytest.fixture
def bench(path: Path) -> Iterator[Bench]:
    with closing(Bench(path)) as bench:
        yield bench


def keys(*items: str) -> list[int]:
    return [item_key(item) for item in items]


def keys_in(sequence: bytes) -> list[int]:
    found: list[int] = from_bytes(sequence)["item"].tolist()
    return found


def labels_in(samples: list[Sample]) -> dict[tuple[str, int], tuple[Any, ...]]:
    """(request, item key) → everything the model learns of it; fails where one comes twice."""
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    for sample in samples:
        rows = zip(
            np.frombuffer(sample.items, "<u8").tolist(),
            np.frombuffer(sample.categories, "<u4").tolist(),
            np.frombuffer(sample.positions, "<u2").tolist(),
            np.frombuffer(sample.probabilities, "<f4").tolist(),
            np.frombuffer(sample.labels, "<u1").tolist(),
            strict=True,
        )
        for item, *row in rows:
            assert (sample.request_id, item) not in found, "labelled twice"
            found[sample.request_id, item] = (
                sample.user,
                sample.arm,
                sample.ts,
                sample.epoch,
                sample.version,
                sample.sequence,
                *row,
            )
    return found


LATER = WINDOW + LATENESS + 1
"""From here on the window of an impression at 0 is closed."""


# --- folding ---------------------------------------------------------------------------------------------------------


def by_hand(records: list[Record]) -> dict[str, tuple[int, bytes]]:
    """User → running count and the newest LENGTH behaviours, packed by hand."""
    every: dict[str, list[bytes]] = {user: [] for user in USERS}
    for record in records:
        if record.topic == TOPICS.behaviors and record.value is not None and record.value.startswith(b"{"):
            event = msgspec.json.decode(record.value)
            row = item_key(event["item"]), category_key(event["category"]), action_key(event["action"]), event["ts"]
            every[event["user"]].append(struct.pack("<QIHq", *row))
    return {user: (len(rows), b"".join(rows[-LENGTH:])) for user, rows in every.items()}


@settings(max_examples=40, deadline=None)
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


def unread(bench: Bench, records: list[Record]) -> list[Record]:
    return [record for record in records if record.offset >= bench.start.offsets[record.topic]]


def test_behaviours_of_one_topic_keep_their_order_of_arrival_whatever_their_times(bench: Bench) -> None:
    bench.turn(*Log(behavior("new", 50), behavior("old", 10), behavior("newest", 90)).records)
    assert bench.items() == keys("new", "old", "newest")


# --- what an impression sees -----------------------------------------------------------------------------------------


def test_a_request_sees_what_came_before_it_and_nothing_later(bench: Bench) -> None:
    [request] = bench.turn(*Log(behavior("a", 10), behavior("b", 20), behavior("c", 30), impression(ts=25)).records)
    assert keys_in(request.example.sequence.tobytes()) == keys("a", "b")
    assert request.seen == 2
    assert request.example.ts == T0 + 25
    assert request.example.items.tolist() == keys("c0", "c1", "c2", "c3")
    assert request.example.categories.tolist() == [0, *[category_key("food")] * 3]
    assert bench.items() == keys("a", "b", "c")


def test_an_impression_goes_before_a_behaviour_and_a_click_of_the_same_time(bench: Bench) -> None:
    [request] = bench.turn(*Log(behavior("a", 10), behavior("same", 20), click("c0", 20), impression(ts=20)).records)
    assert keys_in(request.example.sequence.tobytes()) == keys("a")
    assert keys_in(bench.samples[0].sequence) == keys("a")


def test_a_sample_shows_the_sequence_as_it_was_when_scored(bench: Bench) -> None:
    log = Log(*(behavior(f"before-{number}", number) for number in range(LENGTH + 3)), impression(ts=100))
    [request] = bench.turn(*log.records)
    for number in range(SLACK):
        bench.turn(log.write(behavior(f"after-{number}", 200 + number)))
    bench.turn(log.write(click("c0", 300)))
    bench.turn(log.write(behavior("late", 100 + LATER, user=USERS[1])))
    asked = request.example.sequence.tobytes()
    assert keys_in(asked) == keys(*(f"before-{number}" for number in range(3, LENGTH + 3)))
    assert [sample.sequence for sample in bench.samples] == [asked, asked]
    assert bench.task.counts["sequences_cut"] == 0


def test_a_sequence_that_too_much_came_after_is_cut_at_its_old_end_and_counted(bench: Bench) -> None:
    log = Log(*(behavior(f"before-{number}", 0) for number in range(CHUNK + 2)), impression(ts=1))
    bench.turn(*log.records)
    bench.turn(*(log.write(behavior("after", 2)) for _ in range(CHUNK)), log.write(click("c0", 3)))
    [sample] = bench.samples
    assert keys_in(sample.sequence) == keys(f"before-{CHUNK}", f"before-{CHUNK + 1}"), "the newest two are kept"
    assert bench.task.counts["sequences_cut"] == 1


def test_behaviours_are_waited_for_until_patience_runs_out(bench: Bench) -> None:
    log = Log(impression(ts=25))
    lagging = [TOPICS.behaviors]
    assert not bench.turn(*log.records, now=50.0, lagging=lagging)
    assert bench.task.backlog(TOPICS.impressions) == 1
    [request] = bench.turn(log.write(behavior("a", 10)), log.write(behavior("b", 30)), now=51.0, lagging=lagging)
    assert keys_in(request.example.sequence.tobytes()) == keys("a")
    assert not bench.turn(log.write(impression("r2", 40)), now=60.0, lagging=lagging)
    assert not bench.turn(now=60.0 + ALIGN_S - 0.01, lagging=lagging)
    assert len(bench.turn(now=60.0 + ALIGN_S, lagging=lagging)) == 1


# --- labels ----------------------------------------------------------------------------------------------------------


def test_shown_slots_become_negatives_and_a_click_proves_any_candidate(bench: Bench) -> None:
    log = Log(impression(size=5, slots=2))
    bench.turn(*log.records)
    assert (bench.task.open_requests, bench.samples) == (1, [])
    bench.turn(log.write(click("c0", 700), timestamp=T0 + 777))
    [positive] = bench.outcomes
    assert (positive.items, positive.positions, positive.labels) == (["c0"], [4], [1])
    bench.turn(log.write(click("c4", 800)))
    bench.turn(log.write(behavior("x", LATER - 1, user=USERS[1])))
    assert len(bench.outcomes) == 2, "the window is open still"
    bench.turn(log.write(behavior("x", LATER, user=USERS[1])))
    negative = bench.outcomes[-1]
    assert (negative.items, negative.positions, negative.labels) == (["c3"], [1], [0])
    assert [sample.clicked_at for sample in bench.samples] == [T0 + 777, T0 + 800, 0]
    assert bench.task.open_requests == 0
    assert bench.task.counts["samples"] == 3


def test_a_sample_and_its_outcome_say_the_same(bench: Bench) -> None:
    log = Log(behavior("a", 0), impression(ts=1, size=3, slots=3))
    bench.turn(*log.records)
    bench.turn(log.write(behavior("x", 1 + LATER)))
    [sample], [outcome] = bench.samples, bench.outcomes
    for name in ("request_id", "user", "arm", "ts", "epoch", "version"):
        assert getattr(sample, name) == getattr(outcome, name)
    assert (sample.request_id, sample.user, sample.arm, sample.ts) == ("r", USER, "reversing", T0 + 1)
    assert (sample.epoch, sample.version) == (1, 1)
    assert np.frombuffer(sample.items, "<u8").tolist() == keys(*outcome.items) == keys("c0", "c1", "c2")
    assert np.frombuffer(sample.categories, "<u4").tolist() == [0, category_key("food"), category_key("food")]
    assert np.frombuffer(sample.positions, "<u2").tolist() == outcome.positions == [2, 1, 0]
    assert np.frombuffer(sample.probabilities, "<f4").tolist() == outcome.probabilities
    assert outcome.probabilities == pytest.approx([1 / 5, 2 / 5, 3 / 5])
    assert np.frombuffer(sample.labels, "<u1").tolist() == outcome.labels == [0, 0, 0]


def test_labels_that_come_together_travel_together_and_others_alone(bench: Bench) -> None:
    log = Log(impression(size=5, slots=5))
    bench.turn(*log.records)
    bench.turn(
        log.write(click("c1", 100), timestamp=T0 + 150),
        log.write(click("c3", 110), timestamp=T0 + 120),
    )
    bench.turn(log.write(click("c0", 200)))
    bench.turn(log.write(behavior("x", LATER)))
    assert [(outcome.items, outcome.labels) for outcome in bench.outcomes] == [
        (["c1", "c3"], [1, 1]),
        (["c0"], [1]),
        (["c2", "c4"], [0, 0]),
    ]
    assert [sample.clicked_at for sample in bench.samples] == [T0 + 150, T0 + 200, 0]


def test_positives_and_negatives_of_one_turn_are_two_samples(bench: Bench) -> None:
    bench.turn(*Log(impression(slots=4), click("c1", 10), click("c2", 20), behavior("x", LATER)).records)
    assert [(outcome.items, outcome.labels) for outcome in bench.outcomes] == [
        (["c1", "c2"], [1, 1]),
        (["c0", "c3"], [0, 0]),
    ]


def test_a_click_that_is_read_before_its_impression_waits_for_it(bench: Bench) -> None:
    log = Log()
    bench.turn(log.write(click("c0", 10)))
    assert not bench.samples
    bench.turn(log.write(impression()))
    assert [outcome.items for outcome in bench.outcomes] == [["c0"]]
    assert not bench.refused


def test_a_click_without_an_impression_is_refused_byte_for_byte_when_its_window_is_over(bench: Bench) -> None:
    log = Log()
    orphan = log.write(click("c0", 0, "never shown"))
    bench.turn(orphan)
    assert not bench.refused
    bench.turn(log.write(behavior("x", LATER)))
    [refused] = bench.refused
    assert refused.record == orphan
    assert "no open impression with request_id 'never shown'" in refused.reason


def test_a_repeated_request_is_answered_again_and_labelled_once(bench: Bench) -> None:
    log = Log(impression(ts=0))
    bench.turn(*log.records)
    bench.version = 9
    [again] = bench.turn(log.write(impression(ts=50)))
    assert again.impression.request_id == "r"
    assert bench.task.open_requests == 1
    bench.turn(log.write(click("c3", 60)), log.write(behavior("x", 50 + LATER)))
    labels = labels_in(bench.samples)
    assert sorted(labels) == sorted([("r", item_key("c2")), ("r", item_key("c3"))])
    assert {sample.version for sample in bench.samples} == {1}, "what was shown first is learned from"
    assert {sample.ts for sample in bench.samples} == {T0}


def test_an_impression_that_is_too_old_is_counted_and_not_asked(bench: Bench) -> None:
    log = Log(impression("old"), impression("young", 1), click("c0", 10, "old"))
    [asked] = bench.turn(*log.records, wall=300_001)
    assert asked.impression.request_id == "young"
    assert bench.task.counts["impressions_too_old"] == 1
    assert bench.task.counts["impressions"] == 1
    assert bench.task.offsets[TOPICS.impressions] == 2
    bench.turn(log.write(behavior("x", 10 + LATER)))
    assert [refused.record.topic for refused in bench.refused] == [TOPICS.clicks]


def test_a_step_asks_for_sixteen_at_most_and_goes_on_in_the_next(bench: Bench) -> None:
    log = Log()
    for number in range(40):
        log.write(behavior(f"b{number}", 2 * number))
        log.write(impression(f"r{number}", 2 * number + 1))
    asked = [bench.turn(*log.records), bench.turn(), bench.turn(), bench.turn()]
    assert list(map(len, asked)) == [16, 16, 8, 0]
    requests = [request for part in asked for request in part]
    assert [request.impression.request_id for request in requests] == [f"r{number}" for number in range(40)]
    assert [request.seen for request in requests] == list(range(1, 41))
    assert bench.items() == keys(*(f"b{number}" for number in range(30, 40)))


def test_a_step_processes_no_more_records_than_its_limit(bench: Bench) -> None:
    bench.turn(*Log(*(behavior(f"b{number}", number) for number in range(5))).records, limit=3)
    assert bench.items() == keys("b0", "b1", "b2")
    assert bench.task.offsets[TOPICS.behaviors] == 3
    assert bench.task.backlog(TOPICS.behaviors) == 2


# --- bad input -------------------------------------------------------------------------------------------------------

GOOD = encode_json(behavior("b", 0))
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
        (TOPICS.behaviors, encode_json(behavior("b", 5001)), {}, "5001 ms ahead"),
        (TOPICS.impressions, encode_json(impression(ts=5001)), {}, "5001 ms ahead"),
        (TOPICS.clicks, encode_json(click("c0", 5001)), {}, "5001 ms ahead"),
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
        impression(ts=5000),
        impression(size=20),
        click("c0", 5000),
    ],
)
def test_what_lies_at_a_limit_is_taken(bench: Bench, event: Event) -> None:
    bench.turn(Log().write(event, timestamp=T0))
    assert not bench.refused
    assert bench.task.counts.total() == 1


def test_the_largest_impression_is_taken(bench: Bench) -> None:
    value = encode_json(impression())
    [asked] = bench.turn(Log().put(TOPICS.impressions, value.ljust(RECORD_BYTES // 2)))
    assert asked.impression == impression()


def test_a_bad_record_is_refused_in_its_turn(bench: Bench) -> None:
    log = Log(behavior("a", 10))
    log.put(TOPICS.behaviors, b"bad")
    log.write(behavior("b", 30))
    log.write(impression(ts=20))
    for record in log.records:
        bench.task.add(record)
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
        log.write(click("c0", 20, user=USERS[1])),
        log.write(click("c0", WINDOW + 1)),
    ]
    bench.turn(*bad)
    assert [refused.record for refused in bench.refused] == bad
    for reason, words in zip(bench.reasons(), ["no candidate", "another user", "1001 ms after"], strict=True):
        assert words in reason
    assert not bench.samples


def test_an_offset_that_goes_back_ends_the_work_and_says_where(path: Path) -> None:
    log = Log(*(behavior("b", number) for number in range(8)))
    with closing(Bench(path, beginning(offsets=beginning().offsets | {TOPICS.behaviors: 5}))) as bench:
        with pytest.raises(WorkerError, match=rf"behaviors/{NUMBER} went back from offset 5 to 4"):
            bench.task.add(log.records[4])
        bench.turn(log.records[5], log.records[7])
        with pytest.raises(WorkerError, match="went back from offset 8 to 7"):
            bench.task.add(log.records[7])
        assert bench.task.offsets[TOPICS.behaviors] == 8, "Kafka may leave offsets out"


# --- answers given before ---------------------------------------------------------------------------------------------


def given_before(request_id: str = "r", **changes: Any) -> Score:
    """An answer with an order of its own: c2 is the best, then c0."""
    score = Score(
        request_id,
        USER,
        T0,
        "earlier",
        7,
        8,
        ["c0", "c1", "c2", "c3"],
        [0.25, 0.125, 0.5, 0.0625],
        [2, 0, 1, 3],
        2,
        1,
        Spent(0.0, 0.0, 0.0),
    )
    return msgspec.structs.replace(score, **changes)


def test_what_was_shown_before_a_crash_is_learned_from_and_not_asked_again(path: Path) -> None:
    offsets = beginning().offsets | {TOPICS.scores: 7}
    start = beginning(offsets=offsets, answers={"r": given_before()}, answers_end=30, impressions_end=1)
    with closing(Bench(path, start)) as bench:
        assert bench.task.recoverable == 1
        assert bench.task.offsets[TOPICS.scores] == 7, "a crash now must find the answer again"
        log = Log(behavior("a", -20), behavior("b", -10), impression())
        assert not bench.turn(*log.records)
        assert (bench.task.recoverable, bench.task.open_requests) == (0, 1)
        assert bench.task.counts["answers_recovered"] == 1
        assert bench.task.offsets[TOPICS.scores] == 30
        bench.turn(log.write(click("c1", 10)), log.write(behavior("x", LATER)))
        positive, negative = bench.outcomes
        assert (positive.items, positive.positions, positive.probabilities) == (["c1"], [2], [0.125])
        assert (negative.items, negative.positions, negative.probabilities) == (["c0", "c2"], [1, 0], [0.25, 0.5])
        for sample in bench.samples:
            assert (sample.arm, sample.epoch, sample.version) == ("earlier", 7, 8)
            assert keys_in(sample.sequence) == keys("a"), "the model had seen one behaviour then"


def test_an_answer_that_knows_more_than_kafka_still_opens_its_window(path: Path) -> None:
    start = beginning(answers={"r": given_before(seen=1000)}, impressions_end=1)
    with closing(Bench(path, start)) as bench:
        log = Log(behavior("a", -10), impression())
        bench.turn(*log.records, log.write(behavior("x", LATER)))
        assert [keys_in(sample.sequence) for sample in bench.samples] == [keys("a")]


def test_an_impression_that_came_after_younger_behaviours_finds_the_sequence_of_its_answer_again(path: Path) -> None:
    log = Log(behavior("a", -10), behavior("b", 5), behavior("c", 20))
    asked_late, clicked = impression(), click("c1", 6)
    with closing(Bench(path)) as bench:
        bench.turn(*log.records[:2])
        [request] = bench.turn(log.write(asked_late))
        assert (request.seen, request.read_to) == (2, 2)
        answers = bench.scores
    records = [*log.records, log.write(clicked)]
    start = beginning(answers=answers, answers_end=1, impressions_end=1, behaviors_end=3)
    with closing(Bench(path, start)) as again:
        young, rest = records[1:3], [records[0], *records[3:]]
        assert not again.turn(*rest)
        assert (again.task.open_requests, again.task.in_hand) == (0, 2), "it waits for what its answer knew"
        assert not again.turn(*young)
        again.turn(log.write(behavior("x", LATER)))
        assert [keys_in(sample.sequence) for sample in again.samples] == [keys("a", "b")] * 2
        assert again.items() == keys("a", "b", "c", "x")


def test_an_answer_that_read_further_than_kafka_goes_does_not_hold_its_partition(path: Path) -> None:
    start = beginning(answers={"r": given_before(read_to=1000)}, impressions_end=1, behaviors_end=1)
    with closing(Bench(path, start)) as bench:
        bench.turn(*Log(behavior("a", 5), impression()).records)
        assert (bench.task.open_requests, bench.task.in_hand) == (1, 0)


SHORTER = {"items": ["c0"], "probabilities": [0.5], "order": [0]}


@pytest.mark.parametrize("other", [{"user": USERS[1]}, {"items": ["c1", "c0", "c2", "c3"]}, SHORTER])
def test_an_answer_of_another_user_or_to_other_items_is_no_answer(path: Path, other: dict[str, Any]) -> None:
    start = beginning(answers={"r": given_before(**other)}, answers_end=30, impressions_end=1)
    with closing(Bench(path, start)) as bench:
        assert len(bench.turn(*Log(impression()).records)) == 1
        assert bench.task.counts["answers_recovered"] == 0


def test_answers_to_nothing_are_forgotten_when_the_impressions_of_the_start_are_read(path: Path) -> None:
    answers = {"r": given_before(), "gone": given_before("gone")}
    with closing(Bench(path, beginning(answers=answers, answers_end=30, impressions_end=2))) as bench:
        log = Log(impression(), impression("r2", 10), impression("gone", 20))
        bench.turn(log.records[0])
        assert bench.task.recoverable == 1
        bench.task.answer_is_in(29)
        assert bench.task.offsets[TOPICS.scores] == 0
        bench.turn(log.records[1])
        assert bench.task.recoverable == 0
        assert bench.task.offsets[TOPICS.scores] == 30
        [asked] = bench.turn(log.records[2])
        assert asked.impression.request_id == "gone"


def test_what_kafka_has_of_our_answers_moves_their_end_and_never_back(bench: Bench) -> None:
    assert bench.task.offsets[TOPICS.scores] == 0
    for offset in (3, 9, 5):
        bench.task.answer_is_in(offset)
    assert bench.task.offsets[TOPICS.scores] == 10


def test_what_the_group_has_answered_is_not_asked_again_but_behaviours_are_folded(path: Path) -> None:
    log = Log(behavior("a", 0), impression("answered", 10), behavior("b", 20), impression("new", 30))
    with closing(Bench(path, beginning(answered=1, impressions_end=1))) as bench:
        [asked] = bench.turn(*log.records)
        assert asked.impression.request_id == "new"
        assert asked.seen == 2
        assert bench.task.offsets[TOPICS.impressions] == 2


def test_open_requests_of_a_state_that_was_overtaken_are_dropped(path: Path) -> None:
    log = Log(behavior("a", 0), impression(ts=10), click("c0", 20, "waits"))
    with closing(Bench(path)) as first:
        first.turn(*log.records)
        first.task.commit()
    later = log.write(behavior("x", 20 + LATER))
    with closing(Bench(path)) as second:
        assert second.task.open_requests == 1
        second.turn(later)
        assert [sample.request_id for sample in second.samples] == ["r"]
        assert len(second.refused) == 1
    with closing(Bench(path, beginning(offsets=dict(second.start.offsets), overtaken=True))) as third:
        assert third.task.open_requests == 0
        third.turn(later)
        assert not third.samples
        assert not third.refused
        assert third.items() == keys("a", "x"), "sequences stay"
        third.task.commit()
    with closing(Bench(path)) as fourth:
        assert fourth.task.open_requests == 0


# --- commits and crashes ----------------------------------------------------------------------------------------------


def test_what_was_committed_is_there_again(path: Path) -> None:
    log = Log(behavior("a", 0), behavior("b", 1), impression(ts=2), click("c3", 3), click("c0", 4, "waits"))
    with closing(Bench(path)) as bench:
        changed = [bench.task.changed]
        bench.turn(*log.records)
        changed.append(bench.task.changed)
        bench.task.answer_is_in(4)
        bench.task.commit()
        changed.append(bench.task.changed)
        assert changed == [False, True, False]
        offsets = bench.task.offsets
    assert offsets == {TOPICS.behaviors: 2, TOPICS.impressions: 1, TOPICS.clicks: 2, TOPICS.scores: 5}
    with closing(Bench(path)) as again:
        assert dict(again.partition.offsets) == offsets
        assert again.items() == keys("a", "b")
        assert again.task.open_requests == 1
        again.turn(log.write(behavior("x", 4 + LATER)))
        assert [outcome.items for outcome in again.outcomes] == [["c2"]], "c3 was clicked before"
        assert [refused.record for refused in again.refused] == [log.records[4]]


def test_what_was_not_committed_is_not_there(path: Path) -> None:
    log = Log(behavior("a", 0), impression(ts=1))
    with closing(Bench(path)) as bench:
        bench.turn(*log.records)
        bench.task.commit()
    before = dump(path)
    with closing(Bench(path)) as bench:
        bench.turn(log.write(behavior("b", 2)), log.write(click("c3", 3)), log.write(behavior("x", 1 + LATER)))
        assert len(bench.samples) == 2
    assert dump(path) == before


def test_a_crash_between_produce_and_commit_repeats_the_same_samples_byte_for_byte(path: Path) -> None:
    log = Log(*(behavior(f"b{number}", number) for number in range(LENGTH + 2)), impression(ts=50, size=6, slots=3))
    batches = [
        log.records[:],
        [log.write(behavior("after", 60)), log.write(click("c1", 70)), log.write(click("c5", 80))],
        [log.write(impression("r2", 90, user=USERS[1])), log.write(behavior("x", 50 + LATER, user=USERS[2]))],
    ]
    start = beginning()
    lives: list[list[bytes]] = []
    for life in range(2):
        with closing(Bench(path, start, version=1 + life)) as bench:
            asked = [bench.turn(*batch) for batch in batches]
            lives.append([encode_packed(sample) for sample in bench.samples])
            lives[-1] += [encode_packed(outcome) for outcome in bench.outcomes]
            assert list(map(len, asked)) == ([0, 0, 0] if life else [1, 0, 1])
            # All that was produced is in Kafka, and then the process dies.
            start = beginning(answers=bench.scores, answers_end=2, impressions_end=2)
    assert len(lives[0]) == 4
    assert lives[0] == lives[1]


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.integers(0, 4000),
            st.integers(0, 3),
            st.lists(st.tuples(st.integers(0, WINDOW), st.integers(0, 5)), max_size=4),
        ),
        max_size=8,
    ),
    behaviors=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 3)), max_size=25),
    turns=st.lists(st.tuples(st.integers(1, 15), st.sampled_from(["go on", "commit", "crash"])), max_size=20),
    answering=st.sampled_from([reversing, mixing]),
)
def test_whatever_crashes_every_shown_item_gets_the_label_of_an_undisturbed_life(
    requests: list[tuple[int, int, list[tuple[int, int]]]],
    behaviors: list[tuple[int, int]],
    turns: list[tuple[int, str]],
    answering: Callable[[Request, int], Answer],
) -> None:
    events: list[Event] = [behavior(f"b{number}", ts, user=USERS[who]) for number, (ts, who) in enumerate(behaviors)]
    for number, (ts, who, clicks) in enumerate(requests):
        events.append(impression(f"r{number}", ts, user=USERS[who], size=6, slots=3))
        events += [click(f"c{item}", ts + delay, f"r{number}", user=USERS[who]) for delay, item in clicks]
    order = (Impression, Click, Behavior)
    log = Log(*sorted(events, key=lambda event: (event.ts, order.index(type(event)))), behavior("x", 20_000))
    with tempfile.TemporaryDirectory() as home:
        with closing(Bench(Path(home) / "undisturbed", answering=answering)) as undisturbed:
            undisturbed.turn(*log.records)
            while undisturbed.turn():
                pass
        path, life, place = Path(home) / "disturbed", 1, 0
        bench = Bench(path, answering=answering)
        samples: list[Sample] = []
        scores: dict[str, Score] = {}
        for size, then in [*turns, (len(log.records), "commit")]:
            bench.turn(*unread(bench, log.records[place : place + size]))
            place = min(place + size, len(log.records))
            if then == "commit":
                bench.task.commit()
            elif then == "crash":
                samples += bench.samples
                scores |= bench.scores
                bench.close()
                life += 1
                kept = beginning().offsets | open_offsets(path)
                ahead = sum(record.topic == TOPICS.impressions for record in log.records[:place])
                start = beginning(offsets=kept, answers=scores, answers_end=len(scores), impressions_end=ahead)
                bench = Bench(path, start, version=life, answering=answering)
                bench.turn(*unread(bench, log.records[:place]))
        samples += bench.samples
        bench.close()
        # The trainer takes the first of each (request, item).
        first: dict[tuple[str, int], tuple[Any, ...]] = {}
        for sample in samples:
            for key, label in labels_in([sample]).items():
                known = first.setdefault(key, label)
                assert (known[5], known[-1]) == (label[5], label[-1]), "a repeat says the same"
        expected = labels_in(undisturbed.samples)
        assert first.keys() == expected.keys()
        version = 4
        for key, label in first.items():
            assert label[:version] == expected[key][:version]
            assert (label[5], label[-1]) == (expected[key][5], expected[key][-1])
            shown = scores.get(key[0]) or bench.scores[key[0]]
            assert label[version] == shown.version, "what was shown first is what is learned from"


def open_offsets(path: Path) -> dict[str, int]:
    with closing(Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=0)) as partition:
        return dict(partition.offsets)


# --- silence ----------------------------------------------------------------------------------------------------------


def test_windows_close_in_silence_at_the_speed_of_the_wall_clock(bench: Bench) -> None:
    log = Log(impression(size=3, slots=3))
    bench.turn(*log.records, now=100.0)
    assert not bench.task.waits_idle(100.0 + IDLE_S)
    assert bench.task.waits_idle(100.0 + IDLE_S + 0.01)
    bench.task.pass_time(100.0 + (LATER - 1) / 1000)
    bench.settle()
    assert not bench.samples
    bench.task.commit()
    bench.task.pass_time(100.0 + LATER / 1000)
    assert bench.task.changed
    bench.settle()
    assert [outcome.items for outcome in bench.outcomes] == [["c0", "c1", "c2"]]
    assert bench.task.open_requests == 0
    assert not bench.task.waits_idle(1000.0), "nothing waits any more"


def test_a_click_that_waits_in_silence_becomes_an_orphan(bench: Bench) -> None:
    bench.turn(*Log(click("c0", 0)).records, now=100.0)
    assert bench.task.waits_idle(106.0)
    bench.task.pass_time(106.0)
    bench.settle()
    assert len(bench.refused) == 1


def test_nothing_is_idle_that_has_no_windows_or_still_has_records_in_hand(path: Path) -> None:
    with closing(Bench(path)) as bench:
        log = Log(behavior("a", 0))
        bench.turn(*log.records, now=0.0)
        assert not bench.task.waits_idle(1000.0)
        bench.turn(log.write(impression(ts=1)), now=1000.0)
        bench.turn(log.write(behavior("b", 2)), now=1000.0, lagging=PRECEDENCE)
        assert not bench.task.waits_idle(2000.0)


def test_a_record_ends_the_silence(bench: Bench) -> None:
    log = Log(impression(size=3, slots=3))
    bench.turn(*log.records, now=100.0)
    bench.turn(log.write(behavior("a", 10)), now=104.0)
    assert not bench.task.waits_idle(106.0)
    assert bench.task.waits_idle(110.0)
    bench.turn(log.write(click("c0", 20)), now=110.0)
    assert [outcome.items for outcome in bench.outcomes] == [["c0"]]


def test_windows_of_a_state_taken_up_again_close_in_silence(path: Path) -> None:
    with closing(Bench(path)) as bench:
        bench.turn(*Log(behavior("a", 0), impression(ts=1)).records)
        bench.task.commit()
    with closing(Bench(path)) as again:
        assert not again.task.waits_idle(500.0), "silence begins with the first step"
        again.turn(now=500.0)
        assert again.task.waits_idle(506.0)
        again.task.pass_time(506.0)
        again.settle()
        assert [keys_in(sample.sequence) for sample in again.samples] == [keys("a")]
