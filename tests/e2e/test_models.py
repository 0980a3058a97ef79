"""Unlike models as arms at once: each serves, learns and forgets; a kill and a rebalance lose and double nothing."""

import urllib.request
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from model.serialization.checkpoint import load_newest
from model.serialization.update import Version
from state.behavior import behaviors, item_key
from stream.local.ports import free_port
from stream.schema.events import decode_sample
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.trainer.training import Training
from tests.e2e.harness import ITEMS, LENGTH, Harness, wait_for

pytestmark = pytest.mark.broker

SMALL = {"item_dim": 4, "category_dim": 4, "length": LENGTH}
ARMS = [
    {"name": "sam", "preset": "sam", "model": SMALL, "optim": {"expire_after_s": 0.2, "admit_after": 3}},
    {"name": "sdim", "preset": "sdim", "model": SMALL},
    {"name": "dare", "preset": "dare", "model": SMALL, "optim": {"max_rows": 40}},
    {"name": "twin-v2", "preset": "twin-v2", "model": SMALL},
    {"name": "sar", "preset": "sar", "model": SMALL | {"interest": {"lengths": [12, LENGTH]}}},
]
LONG_S = 180.0
"""Five models at once, beside other tests."""
CHOSEN = 'samstream_chosen_lengths_total{arm="sar"'


def saved_learners(settings: Settings) -> Training:
    """Return the arms as the newest checkpoint has them."""
    training = Training(settings, device="cpu")
    found = load_newest(Path(settings.trainer.directory)).checkpoint
    assert found is not None
    for name, arm in training.arms.items():
        arm.resume(found.arms[name])
    return training


def served_as_learned(harness: Harness, training: Training) -> Counter[str]:
    """See that what was served at the trainer's version is what it computes; returns of how many requests, by arm."""
    equal, everything = Counter[str](), harness.folded()
    for sample in map(decode_sample, harness.read(harness.topics.samples)):
        learner, answer = training.arms[sample.arm].learner, harness.answers[sample.request]
        sequence = everything.get(sample.user, behaviors([]))[: sample.sequence.seen][-LENGTH:]
        if not learner.version == Version(sample.epoch, sample.version) == Version(answer.epoch, answer.version):
            continue
        if (taken := training.take(sample, sequence)) is not None:
            [expected] = learner.predict([taken.features])
            served = dict(zip(map(item_key, answer.items), answer.probabilities, strict=True))
            assert [served[item] for item in taken.features.items.tolist()] == expected.tolist()
            equal[sample.arm] += 1
    return equal


@pytest.mark.slow
def test_five_unlike_arms_serve_and_learn_through_a_kill_and_a_rebalance(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    names = {arm["name"] for arm in ARMS}
    with Harness(kafka, topics, topic_prefix, tmp_path, arms=ARMS) as harness:
        until = partial(wait_for, processes=harness.processes, deadline_s=LONG_S)
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker-1", instance="one")
        harness.wander(1000)
        harness.traffic(60)
        harness.replace_worker_after_an_answer("worker-1", "worker-2")
        harness.kill("trainer")
        harness.processes.start("trainer-2", "trainer")
        port = free_port()
        harness.start_worker("worker-3", "--set", f"worker.metrics=127.0.0.1:{port}", instance="three")

        def all_fresh() -> bool:
            """Whether every arm has answered with a model that it has learned."""
            harness.traffic(10)
            return names <= {score.arm for score in harness.answers.values() if score.version > 0}

        until(
            all_fresh,
            "answers of all five arms with what they have learned",
            processes=harness.processes,
            deadline_s=LONG_S,
        )
        assert "update_refused" not in "".join(
            harness.processes.log(name).read_text() for name in ("worker-1", "worker-2", "worker-3")
        )

        def choices_told() -> bool:
            """Whether the worker that came last says which lengths SAR's policy chose."""
            harness.traffic(10)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return CHOSEN in answer.read().decode()

        until(choices_told, "the lengths that were chosen")

        def forgotten() -> bool:
            """Whether rows have gone and come back, for each of the reasons."""
            harness.traffic(10)
            arms = saved_learners(harness.settings).arms
            sam, dare = (arms[name].learner.key_counts["item"] for name in ("sam", "dare"))
            come_back = sam["admitted"] > len(ITEMS) < dare["admitted"]
            return come_back and min(sam["refused"], sam["expired"], dare["evicted"]) > 0

        until(forgotten, "rows to go and to come back")
        harness.end("trainer-2")
        learned = saved_learners(harness.settings)
        newest = {name: arm.learner.version for name, arm in learned.arms.items()}

        def all_up_to_date() -> bool:
            """Whether every arm has answered with the last that the trainer has learned."""
            harness.traffic(10)
            return names == {
                each.arm for each in harness.answers.values() if (each.epoch, each.version) == newest[each.arm]
            }

        until(
            all_up_to_date, "answers of all arms with the last update", processes=harness.processes, deadline_s=LONG_S
        )
        harness.processes.start("trainer-3", "trainer")
        harness.settle()
        assert served_as_learned(harness, learned).keys() == names
