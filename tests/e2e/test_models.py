"""Unlike models as arms at once: each serves and learns; a kill and a rebalance lose and double nothing."""

import urllib.request
from pathlib import Path

import pytest

from stream.local.ports import free_port
from stream.schema.topics import Topics
from tests.e2e.harness import LENGTH, Harness, wait_for

pytestmark = pytest.mark.broker

SMALL = {"item_dim": 4, "category_dim": 4, "length": LENGTH}
ARMS = [
    {"name": "sam", "preset": "sam", "model": SMALL},
    {"name": "sdim", "preset": "sdim", "model": SMALL},
    {"name": "dare", "preset": "dare", "model": SMALL},
    {"name": "twin-v2", "preset": "twin-v2", "model": SMALL},
    {"name": "sar", "preset": "sar", "model": SMALL | {"interest": {"lengths": [12, LENGTH]}}},
]
CHOSEN = 'samstream_chosen_lengths_total{arm="sar"'


def test_five_unlike_arms_serve_and_learn_through_a_kill_and_a_rebalance(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    names = {arm["name"] for arm in ARMS}
    with Harness(kafka, topics, topic_prefix, tmp_path, arms=ARMS) as harness:
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

        wait_for(all_fresh, "answers of all five arms with what they have learned", processes=harness.processes)
        assert "update_refused" not in "".join(
            harness.processes.log(name).read_text() for name in ("worker-1", "worker-2", "worker-3")
        )

        def choices_told() -> bool:
            """Whether the worker that came last says which lengths SAR's policy chose."""
            harness.traffic(10)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return CHOSEN in answer.read().decode()

        wait_for(choices_told, "the lengths that were chosen", processes=harness.processes)
        harness.settle()
