"""The main job on a real broker: nothing lost, nothing doubled, with rebalances and a kill -9 in the middle."""

import signal
from pathlib import Path

import pytest

from model.serialization.checkpoint import load_newest
from stream.schema.topics import Topics
from tests.e2e.harness import Harness, wait_for


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path)


def test_two_workers_and_two_rebalances_lose_and_double_nothing(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        first = harness.start_worker("worker-1")
        harness.wander(1500)
        harness.traffic(40)
        harness.start_worker("worker-2")
        harness.traffic(60)
        harness.processes.release("worker-1")
        first.send_signal(signal.SIGTERM)
        harness.traffic(60)
        assert first.wait(30) == 0
        assert max(score.version for score in harness.answers.values()) > 0, "no update was ever served"
        assert {score.arm for score in harness.answers.values()} == {"sam", "counts"}
        harness.settle()


def test_a_killed_worker_answers_what_it_had_not_committed_and_doubles_nothing(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker-1", instance="one")
        harness.wander(1000)
        harness.traffic(40)
        for _ in range(20):
            harness.ask()
            harness.wander(5)
        harness.replace_worker("worker-1", "worker-2")
        harness.traffic(40)
        harness.settle()


def test_a_killed_trainer_goes_on_from_its_checkpoint_and_learns_each_sample_once(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker-1")
        harness.wander(1000)
        harness.traffic(60)
        wait_for(lambda: harness.trained() > 0, "a checkpoint with samples", processes=harness.processes)
        epoch = max(score.epoch for score in harness.answers.values())
        harness.kill("trainer")
        harness.processes.start("trainer-2", "trainer")
        harness.traffic(60)

        def newer_epoch_serves() -> bool:
            harness.traffic(1)
            return max(score.epoch for score in harness.answers.values()) > epoch

        wait_for(newer_epoch_serves, "workers to take the base of the new trainer", processes=harness.processes)
        harness.settle()
        saved = load_newest(harness.directory / "checkpoints").checkpoint
        assert saved is not None
        assert saved.epoch > epoch
