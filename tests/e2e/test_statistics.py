"""Counts of the stream: each behaviour counted once whatever is killed, and learned as they were served."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from model.serialization.checkpoint import load_newest
from model.spec import HALF_LIVES_S, count_numbers
from model.statistics.item_statistics import unpack_numbers
from model.statistics.primary import STATISTICS
from state.behavior import category_key, item_key
from stream.schema.events import RequestKey, decode_behavior, decode_sample, decode_score
from stream.schema.topics import Topics
from stream.worker.producer import read_given
from tests.e2e.harness import Harness, wait_for


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    # What a worker serves before it has a model has no counts.
    return Harness(kafka, topics, topic_prefix, tmp_path, worker={"model_wait_s": 50.0})


def saved(harness: Harness, table: str) -> dict[int, float]:
    """Return key → events that were ever counted, as the newest checkpoint has them."""
    found = load_newest(harness.directory / "checkpoints").checkpoint
    if found is None or STATISTICS not in found.arms:
        return {}
    tensors = found.arms[STATISTICS].tensors
    return dict(zip(tensors[f"{table}/keys"].tolist(), tensors[f"{table}/sums"][:, 0, -1].tolist(), strict=True))


def counted(harness: Harness) -> tuple[Counter[int], Counter[int]]:
    """Return item key and category key → events in the topic."""
    events = [decode_behavior(value) for value in harness.read(harness.topics.behaviors)]
    items = Counter(item_key(event.item) for event in events)
    return items, Counter(category_key(event.category) for event in events if event.category)


def test_a_killed_trainer_counts_each_behaviour_once(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.wander(300)
        wait_for(lambda: bool(saved(harness, "item")), "counts in a checkpoint", processes=harness.processes)
        for life in range(2):
            harness.wander(200)
            harness.client.flush()
            harness.kill("trainer" if not life else f"trainer-{life}")
            harness.wander(200)
            harness.processes.start(f"trainer-{life + 1}", "trainer")
        harness.client.flush()
        everything = 300 + 4 * 200
        wait_for(
            lambda: round(saved(harness, "category").get(1 << 32, 0.0)) >= everything,
            "all behaviours to be counted",
            processes=harness.processes,
        )
    items, categories = counted(harness)
    assert saved(harness, "item") == items
    assert saved(harness, "category") == {**categories, 1 << 32: everything}


def test_what_was_served_is_learned_also_when_a_killed_worker_had_served_it(harness: Harness) -> None:
    width = count_numbers(HALF_LIVES_S)
    served: dict[tuple[RequestKey, int], bytes] = {}
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.wander(400)
        harness.start_worker("worker-1", instance="one")
        harness.traffic(20)
        harness.replace_worker_after_an_answer("worker-1", "worker-2")
        harness.traffic(20)
        harness.come_to_rest()
        harness.check_samples()
    for message in harness.messages(harness.topics.scores):
        given = read_given(message, decode_score(message.value() or b""))
        score, packed = given.score, given.numbers
        rows = unpack_numbers(packed, len(score.items), width)
        assert rows is not None
        for item, row in zip(score.items, np.split(np.frombuffer(packed, "u1"), len(score.items)), strict=True):
            served.setdefault((score.request, item_key(item)), row.tobytes())
    learned = {}
    for value in harness.read(harness.topics.samples):
        sample = decode_sample(value)
        keys = np.frombuffer(sample.items, "<u8").tolist()
        for key, row in zip(keys, np.split(np.frombuffer(sample.numbers, "u1"), len(keys)), strict=True):
            learned[sample.request, key] = row.tobytes()
    assert len(learned) == len(harness.shown())
    assert learned == {pair: served[pair] for pair in learned}
    assert len(set(learned.values())) > len(learned) // 4, "they differ from item to item and from time to time"
