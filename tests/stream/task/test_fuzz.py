"""A hundred thousand hostile records: nothing stops, each is refused with a reason or taken, the good ones count."""

import json
import random
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import UpdateRefused
from model.learner import Learner
from model.serialization.parts import Assembler, split
from state.partition import Partition
from stream.schema.events import DECODE_ERRORS, decode_outcome, decode_sample, decode_score
from stream.schema.record import Record
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.answer import Answer
from stream.task.resume import ResumePoint
from stream.task.task import Task
from tests.model.learning import small

RECORDS = 100_000
TOPICS = Topics()
INPUTS = (TOPICS.behaviors, TOPICS.impressions, TOPICS.clicks)
T0 = 1_700_000_000_000
USERS = [f"user-{number}" for number in range(50)]
GOOD = "the good user"
HOSTILE: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**30, 1e308, -1e308, 0.5, "", " ", "\x00", "é" * 300, "x" * 257, "\u202e",
    [], {}, [[]], [None], {"item": {}}, [{"item": "a"}] * 40, "../../etc/passwd", "'; DROP TABLE users; --", "NaN",
]  # fmt: skip


def good(rng: random.Random, topic: str, user: str, number: int) -> dict[str, Any]:
    event: dict[str, Any] = {"user": user, "ts": T0 + number}
    if topic == TOPICS.behaviors:
        return event | {"item": f"i{rng.randrange(99)}", "category": "c", "action": "view"}
    if topic == TOPICS.clicks:
        return event | {"item": f"i{rng.randrange(9)}", "request_id": f"r{rng.randrange(number + 1)}"}
    candidates = [{"item": f"i{item}", "category": "c"} for item in rng.sample(range(9), 4)]
    return event | {"request_id": f"r{number}", "slots": 2, "candidates": candidates}


def damaged(rng: random.Random, event: dict[str, Any]) -> bytes:
    """Return an event's JSON after something was done to it."""
    kind = rng.randrange(8)
    if kind == 0:
        event[rng.choice(list(event))] = rng.choice(HOSTILE)
    elif kind == 1:
        del event[rng.choice(list(event))]
    elif kind == 2:
        return rng.randbytes(rng.randrange(200))
    elif kind == 3:
        return b"[" * rng.randrange(1, 20_000)
    text = bytearray(json.dumps(event, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass"))
    if kind == 4:
        del text[rng.randrange(len(text)) :]
    elif kind == 5:
        for _ in range(rng.randrange(1, 6)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    elif kind == 6:
        place = rng.randrange(len(text))
        text[place:place] = rng.choice([b"\xff\xfe", b"\\ud800", b'"', b"}", b"9" * 400, b"\x00", b'{"a":' * 50])
    elif kind == 7:
        text *= 2
    return bytes(text)


def answer(count: int) -> Answer:
    probabilities = np.linspace(0.9, 0.1, count, dtype=np.float32)
    return Answer("arm", 1, 1, probabilities, np.arange(count))


def test_a_task_survives_whatever_is_written_to_its_topics(tmp_path: Path) -> None:
    rng = random.Random(5)
    settings = WorkerSettings(
        attribution_window_s=5.0, allowed_lateness_s=0.0, max_candidates=20, max_impression_age_s=1e9
    )
    start = ResumePoint(dict.fromkeys((*INPUTS, TOPICS.scores), 0), {}, 0, 0, dict.fromkeys(INPUTS, 0))
    offsets = dict.fromkeys(INPUTS, 0)
    sent = refused = good_sent = opened = 0
    with closing(Partition.open(tmp_path / "state", length=10, slack=6)) as partition:
        task = Task(partition, TOPICS, settings, start, partitions=1)

        def work() -> None:
            nonlocal refused, opened
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
            task.add(Record(topic, 0, offsets[topic], T0 + number, key, value))
            offsets[topic] += 1
            sent += 1
            if task.buffered >= 500:
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
