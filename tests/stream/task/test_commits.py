"""What a crash leaves: all that was committed, nothing else, and the same labels as without it."""

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.partition import Partition
from stream.schema.events import Behavior, Click, Impression, RequestKey, Sample, Withdrawal, encode_packed
from stream.task.answer import Answer
from stream.task.decode import Event
from stream.task.resume import GivenAnswer
from stream.task.task import ScoringRequest
from tests.state.support import dump
from tests.stream.task.support import (
    LATER,
    LENGTH,
    SLACK,
    TOPICS,
    USERS,
    WINDOW,
    Bench,
    Log,
    beginning,
    behavior,
    click,
    impression,
    keys,
    labels_in,
    mixing,
    reversing,
    unread,
    withdrawal,
)


def test_what_was_committed_is_there_again(path: Path) -> None:
    log = Log(behavior("a", 0), behavior("b", 1), impression(ts=2), click("c3", 3), click("c0", 4, "waits"))
    with closing(Bench(path)) as bench:
        changed = [bench.task.changed]
        bench.turn(*log.records)
        changed.append(bench.task.changed)
        bench.task.acknowledge_score(4)
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
            start = beginning(answers=bench.given, scores_end=2, impressions_end=2)
    assert len(lives[0]) == 4
    assert lives[0] == lives[1]


@pytest.mark.long
@settings(max_examples=40)
@given(
    requests=st.lists(
        st.tuples(
            st.integers(0, 4000),
            st.integers(0, 3),
            st.lists(st.tuples(st.integers(0, WINDOW), st.integers(0, 5)), max_size=4),
            st.sampled_from([False, False, True]),
        ),
        max_size=8,
    ),
    behaviors=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 3)), max_size=25),
    turns=st.lists(st.tuples(st.integers(1, 15), st.sampled_from(["go on", "commit", "crash"])), max_size=20),
    answering=st.sampled_from([reversing, mixing]),
)
def test_whatever_crashes_every_shown_item_gets_the_label_of_an_undisturbed_life(
    requests: list[tuple[int, int, list[tuple[int, int]], bool]],
    behaviors: list[tuple[int, int]],
    turns: list[tuple[int, str]],
    answering: Callable[[ScoringRequest, int], Answer],
) -> None:
    events: list[Event] = [behavior(f"b{number}", ts, user=USERS[who]) for number, (ts, who) in enumerate(behaviors)]
    numbers: Counter[int] = Counter()  # each user's requests are numbered from 1
    for ts, who, clicks, withdrawn in requests:
        numbers[who] += 1
        request_id, user = str(numbers[who]), USERS[who]
        events.append(impression(request_id, ts, user=user, size=6, slots=3))
        events += [withdrawal(request_id, ts, user=user)] * withdrawn
        events += [click(f"c{item}", ts + delay, request_id, user=user) for delay, item in clicks]
    order = (Impression, Withdrawal, Click, Behavior)
    log = Log(*sorted(events, key=lambda event: (event.ts, order.index(type(event)))), behavior("x", 20_000))
    with tempfile.TemporaryDirectory() as home:
        with closing(Bench(Path(home) / "undisturbed", answering=answering)) as undisturbed:
            undisturbed.turn(*log.records)
            while undisturbed.turn():
                pass
        path, life, place = Path(home) / "disturbed", 1, 0
        bench = Bench(path, answering=answering)
        samples: list[Sample] = []
        given: dict[RequestKey, GivenAnswer] = {}
        for size, then in [*turns, (len(log.records), "commit")]:
            bench.turn(*unread(bench, log.records[place : place + size]))
            place = min(place + size, len(log.records))
            if then == "commit":
                bench.task.commit()
            elif then == "crash":
                samples += bench.samples
                given |= bench.given
                bench.close()
                life += 1
                kept = beginning().offsets | open_offsets(path)
                ahead = sum(record.topic == TOPICS.impressions for record in log.records[:place])
                start = beginning(offsets=kept, answers=given, scores_end=len(given), impressions_end=ahead)
                bench = Bench(path, start, version=life, answering=answering)
                bench.turn(*unread(bench, log.records[:place]))
        samples += bench.samples
        bench.close()
        # The trainer takes the first of each (request, item).
        first: dict[tuple[RequestKey, int], tuple[Any, ...]] = {}
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
            shown = given.get(key[0]) or bench.given[key[0]]
            assert label[version] == shown.score.version, "what was shown first is what is learned from"


def open_offsets(path: Path) -> dict[str, int]:
    with closing(Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=0)) as partition:
        return dict(partition.offsets)
