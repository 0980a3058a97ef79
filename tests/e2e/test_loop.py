"""The main job on a real broker: nothing lost, nothing doubled, with rebalances and a kill -9 in the middle."""

import signal
from pathlib import Path

import numpy as np
import pytest

from model.serialization.checkpoint import load_newest
from stream.schema.events import RequestKey, decode_outcome, decode_sample
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


def kill_worker_under_traffic(harness: Harness) -> None:
    """Kill `worker-1` with requests that it has not answered or committed, and let its successor go on."""
    for _ in range(20):
        harness.ask()
        harness.wander(5)
    harness.replace_worker("worker-1", "worker-2")
    harness.traffic(40)


def test_a_killed_worker_answers_what_it_had_not_committed_and_doubles_nothing(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker-1", instance="one")
        harness.wander(1000)
        harness.traffic(40)
        kill_worker_under_traffic(harness)
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


def test_early_labels_come_to_the_final_ones_when_worker_and_trainer_are_killed(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    harness = Harness(kafka, topics, topic_prefix, tmp_path, worker={"labels": "early", "label_wait_s": 0.0})

    def late_clicks() -> tuple[int, int]:
        """How many clicks came in `samples` after their item was unclicked, and how many of them were learned."""
        first: dict[tuple[RequestKey, int], int] = {}
        late = set()
        for value in harness.read(topics.samples):
            sample = decode_sample(value)
            for item, label in zip(np.frombuffer(sample.items, "<u8").tolist(), sample.labels, strict=True):
                if label > first.setdefault((sample.request, item), label):
                    late.add((sample.request, item))
        found = load_newest(harness.directory / "checkpoints").checkpoint
        return len(late), found.counts.get("late_clicks", 0) if found else 0

    def outcomes() -> dict[tuple[RequestKey, str], int]:
        return {
            (outcome.request, item): label
            for outcome in map(decode_outcome, harness.read(topics.outcomes))
            for item, label in zip(outcome.items, outcome.labels, strict=True)
        }

    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker-1", instance="one")
        harness.wander(500)
        harness.traffic(40)
        kill_worker_under_traffic(harness)
        wait_for(lambda: harness.trained() > 0, "a checkpoint with samples", processes=harness.processes)
        harness.kill("trainer")
        harness.processes.start("trainer-2", "trainer")
        harness.traffic(40)
        harness.close_windows()

        def all_learned() -> bool:
            late, learned = late_clicks()
            return late == learned > 0

        wait_for(all_learned, "all late clicks to be learned", processes=harness.processes)
        # What is learned early says nothing of how far a worker has come; what is counted at the windows' end does.
        shown = harness.shown()
        wait_for(lambda: len(outcomes()) >= len(shown), "all windows to close", processes=harness.processes)
        harness.settle()
        assert len(set(late_clicks())) == 1
        assert outcomes() == harness.shown()
