"""A hundred thousand hostile records: nothing stops, each is refused with a reason or taken, the good ones count."""

import json
import random
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from model.errors import UpdateRefused
from model.learner import Learner
from model.serialization.parts import Assembler, split
from state.partition import Partition
from stream.schema.events import DECODE_ERRORS, decode_outcome, decode_sample, decode_score
from stream.schema.record import Record
from stream.settings import WorkerSettings
from stream.task.answer import Answer
from stream.task.resume import ResumePoint
from stream.task.task import Task
from tests.model.learning import small
from tests.stream.task.hostile import T0, TOPICS, USERS, damaged, good
from tests.stream.task.support import batches

RECORDS = 100_000
INPUTS = (TOPICS.behaviors, TOPICS.impressions, TOPICS.clicks)
GOOD = "the good user"


def answer(count: int) -> Answer:
    probabilities = np.linspace(0.9, 0.1, count, dtype=np.float32)
    return Answer("arm", 1, 1, probabilities, np.arange(count))


@pytest.mark.long
def test_a_task_survives_whatever_is_written_to_its_topics(tmp_path: Path) -> None:
    rng = random.Random(5)
    settings = WorkerSettings(
        attribution_window_s=5.0, allowed_lateness_s=0.0, max_candidates=20, max_impression_age_s=1e9
    )
    start = ResumePoint(dict.fromkeys((*INPUTS, TOPICS.scores), 0), {}, 0, 0, dict.fromkeys(INPUTS, 0))
    offsets = dict.fromkeys(INPUTS, 0)
    sent = refused = good_sent = opened = 0
    sent_now: list[Record] = []
    with closing(Partition.open(tmp_path / "state", length=10, slack=6)) as partition:
        task = Task(partition, TOPICS, settings, start, partitions=1)

        def work() -> None:
            nonlocal refused, opened
            for batch in batches(sorted(sent_now, key=lambda record: record.topic)):
                task.add(batch)
            sent_now.clear()
            while task.buffered:
                for request in task.step(lambda _: True, now=0.0, wall_ms=T0, limit=1000):
                    opened += 1
                    task.take_answer(request, answer(len(request.impression.candidates)))
                for refusal in task.take_results()[1]:
                    assert refusal.reason
                    refused += 1

        for number in range(RECORDS):
            topic = rng.choice(INPUTS)
            user = rng.choice(USERS)
            if rng.random() < 0.1:
                topic, user = TOPICS.behaviors, GOOD
                good_sent += 1
                value: bytes | None = json.dumps(good(rng, topic, user, number)).encode()
            elif rng.random() < 0.1:
                value = json.dumps(good(rng, topic, user, number)).encode()
            else:
                value = None if rng.random() < 0.01 else damaged(rng, good(rng, topic, user, number))
            key = user.encode() if rng.random() < 0.98 or user == GOOD else rng.choice([None, b"", b"\xff", b"another"])
            sent_now.append(Record(topic, 0, offsets[topic], T0 + number, key, value))
            offsets[topic] += 1
            sent += 1
            if len(sent_now) >= 500:
                work()
        work()
        task.commit()
        counts = task.counts
        clicks = counts["clicks"]
        assert partition.sequences.count(GOOD) == good_sent
        assert task.processed == sent == sum(offsets.values())
        assert {topic: task.offsets[topic] for topic in INPUTS} == offsets
        taken = counts["behaviors"] + opened + clicks
        # Every record is refused at once or taken; of the clicks that were taken, those of no use are refused later.
        assert sent - taken <= refused <= sent - taken + clicks
        assert refused > sent // 3


def test_internal_topics_survive_it_too() -> None:
    rng = random.Random(6)
    learner = Learner(small("counts"))
    learner.begin_epoch(1)
    parts = split(learner.base("arm"), 2000)
    assembler = Assembler(["arm"])
    reasons: Counter[str] = Counter()
    for _ in range(RECORDS // 5):
        noise = bytearray(rng.choice(parts))
        for _ in range(rng.randrange(4)):
            noise[rng.randrange(len(noise))] = rng.randrange(256)
        if rng.random() < 0.2:
            del noise[rng.randrange(len(noise)) :]
        try:
            assembler.add(bytes(noise))
        except UpdateRefused as refusal:
            reasons[refusal.reason] += 1
        for decode in (decode_score, decode_sample, decode_outcome):
            try:
                found = decode(bytes(noise[: rng.randrange(200)]))
            except DECODE_ERRORS:
                continue
            pytest.fail(f"noise was read as {found}")
    assert reasons.keys() >= {"malformed", "stale"}
    whole = [assembler.add(part) for part in split(learner.delta("arm"), 2000)]
    assert whole[-1] is not None, "noise is in nobody's way"
    assert whole[-1].at == (1, 1)
