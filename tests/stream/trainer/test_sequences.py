"""What a trainer looks up is what the worker had when it scored, for any order of events, batches and restarts."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.partition import Partition, link_state
from stream.schema.events import Impression, RequestKey, decode_behavior
from stream.schema.position import LogIdentity
from stream.task.decode import Event
from stream.task.paced_fold import PacedFold
from tests.stream.task.support import (
    LATER,
    LENGTH,
    PARTITIONS,
    SETTINGS,
    SLACK,
    STRANGER,
    TOPICS,
    USERS,
    Bench,
    Log,
    batches,
    behavior,
    click,
    impression,
)

NOW = LogIdentity("cluster", TOPICS.behaviors, "id", PARTITIONS)
LEFT_OUT = STRANGER
"""Whose behaviours both refuse: they lie in the wrong partition."""


def fold_in(path: Path) -> PacedFold:
    partition = Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=20_000)
    return PacedFold(partition, TOPICS, SETTINGS, NOW, 0, partitions=PARTITIONS)


Behaved = st.tuples(st.just("behaves"), st.sampled_from([*USERS, LEFT_OUT]), st.integers(1, 40))
Asked = st.tuples(st.just("asks"), st.sampled_from(USERS), st.integers(0, 300))
Events = st.lists(Behaved | Asked, min_size=2, max_size=30)


def log_of(events: list[tuple[str, str, int]]) -> Log:
    """Behaviours and impressions in time order; `delay` ms after an impression its user clicks, if that is not 0."""
    made: list[Event] = []
    clicks: list[Event] = []
    ts = 0
    for number, (kind, user, size) in enumerate(events):
        if kind == "behaves":
            made += [behavior(f"i{number}-{each}", ts + each, user=user) for each in range(size)]
            ts += size
        else:
            made.append(impression(f"r{number}", ts, user=user))
            if size:
                clicks.append(click("c1", ts + size, f"r{number}", user=user))
            ts += 1
    made.append(behavior("the end", max(ts, 300) + LATER, user=USERS[0]))
    return Log(*sorted([*made, *clicks], key=lambda event: (event.ts, not isinstance(event, Impression))))


@pytest.mark.long
@settings(max_examples=80)
@given(Events, st.lists(st.integers(1, 50), min_size=1, max_size=10), st.lists(st.booleans(), min_size=1), st.data())
def test_a_trainers_sequence_of_a_sample_is_the_one_that_the_worker_scored_with(
    events: list[tuple[str, str, int]], turns: list[int], commits: list[bool], data: st.DataObject
) -> None:
    log = log_of(events)
    asked: dict[RequestKey, bytes] = {}
    with TemporaryDirectory() as scratch:
        bench, left, turn = Bench(Path(scratch) / "worker"), list(log.records), 0
        while left:
            size = turns[turn % len(turns)]
            for request in bench.turn(*left[:size]):
                asked[request.impression.request] = request.example.sequence.tobytes()
            left = left[size:]
            if commits[turn % len(commits)]:
                bench.task.commit()
            turn += 1
        for _ in range(2 + len(asked) // 16):
            for request in bench.turn():
                asked[request.impression.request] = request.example.sequence.tobytes()
        samples = bench.samples
        bench.close()
        behaved = [record for record in log.records if record.topic == TOPICS.behaviors]
        working, saved = Path(scratch) / "trainer", Path(scratch) / "checkpoint"
        fold, place, kept = fold_in(working), 0, 0
        restarts = data.draw(st.lists(st.integers(0, len(samples)), max_size=3, unique=True))
        found = set()
        while place < len(samples):
            if place in restarts:
                restarts.remove(place)
                fold.close()
                shutil.rmtree(working)
                if saved.exists():
                    link_state(saved, working)
                fold, place = fold_in(working), kept
                continue
            if data.draw(st.booleans()):
                fold.commit()
                shutil.rmtree(saved, ignore_errors=True)
                fold.copy(saved)
                kept = place
            sample = samples[place]
            for batch in batches(behaved[fold.next : sample.sequence.read_to + data.draw(st.integers(0, 5))]):
                fold.add(batch)
            fold.fold(sample.sequence.read_to)
            assert fold.offset <= max(each.sequence.read_to for each in samples[: place + 1])
            sequence = fold.find(sample.user, sample.sequence)
            if sequence is None:
                did = sum(decode_behavior(each.value or b"").user == sample.user for each in behaved[: fold.offset])
                assert did > sample.sequence.seen + SLACK, "the ring has what is no further back than that"
            else:
                assert sequence.tobytes() == asked[sample.request]
            found.add(sample.request)
            place += 1
        fold.close()
        assert found == asked.keys()
