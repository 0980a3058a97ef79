"""Unlike models as arms at once: each serves and learns; a kill and a rebalance lose and double nothing."""

from pathlib import Path

import pytest

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
        harness.start_worker("worker-3", instance="three")

        def all_fresh() -> bool:
            """Whether every arm has answered with a model that it has learned."""
            harness.traffic(10)
            return names <= {score.arm for score in harness.answers.values() if score.version > 0}

        wait_for(all_fresh, "answers of all five arms with what they have learned", processes=harness.processes)
        assert "update_refused" not in "".join(
            harness.processes.log(name).read_text() for name in ("worker-1", "worker-2", "worker-3")
        )
        harness.settle()
