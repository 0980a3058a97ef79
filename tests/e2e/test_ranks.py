"""A trainer of two ranks on a running system: each sample once, whoever is killed where; and other numbers of ranks."""

from pathlib import Path

import pytest

from stream.schema.topics import Topics
from tests.e2e.harness import Harness, wait_for


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path)


def test_two_ranks_learn_every_sample_once_and_workers_serve_them(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer", "--ranks", "2")
        harness.start_worker("worker", instance="one")
        harness.wander(200)
        harness.traffic(40)

        def served() -> bool:
            harness.traffic(1)
            return {score.arm for score in harness.answers.values() if score.version > 0} == {"sam", "counts"}

        wait_for(served, "updates to be served", processes=harness.processes)
        harness.settle()
