"""Arms divided among trainers (`trainer.arms`): each learns its own, and nothing of one is in the other's way."""

from pathlib import Path

import pytest

from model.metrics import ProgressiveMetrics
from model.serialization.checkpoint import Checkpoint, load_newest
from stream.schema.topics import Topics
from stream.schema.update_headers import read_update_headers
from tests.e2e.harness import Harness, wait_for

ARMS = "sam", "counts"
STATISTICS = "_statistics"


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path, state={"slack": 1024})


def directory(harness: Harness, arm: str) -> Path:
    return harness.directory / f"checkpoints-{arm}"


def start(harness: Harness, arm: str, name: str) -> None:
    own = [f"trainer.arms=['{arm}']", f"trainer.directory='{directory(harness, arm)}'"]
    harness.processes.start(name, "trainer", *(word for each in own for word in ("--set", each)))


def saved(harness: Harness, arm: str) -> Checkpoint | None:
    return load_newest(directory(harness, arm)).checkpoint


def shown_of(harness: Harness, arm: str) -> int:
    return sum(harness.answers[request].arm == arm for request, _ in harness.shown())


def judged(harness: Harness, arm: str) -> int:
    found = saved(harness, arm)
    if found is None or arm not in found.arms:
        return 0
    return ProgressiveMetrics.from_dict(found.arms[arm].progress["metrics"]).total().samples


@pytest.mark.long
def test_two_trainers_learn_an_arm_each_also_when_one_is_killed(harness: Harness) -> None:
    with harness:
        for arm in ARMS:
            start(harness, arm, f"trainer-{arm}")
        harness.start_worker("worker", instance="one")
        harness.wander(300)

        def served() -> set[str]:
            harness.traffic(1)
            return {score.arm for score in harness.answers.values() if score.version > 0}

        wait_for(lambda: served() == set(ARMS), "both arms to be served", processes=harness.processes)
        wait_for(lambda: judged(harness, "counts") > 0, "a checkpoint", processes=harness.processes)
        harness.kill("trainer-counts")
        harness.traffic(10)
        start(harness, "counts", "trainer-again")
        harness.close_windows()
        for arm in ARMS:
            wait_for(
                lambda arm=arm: judged(harness, arm) >= shown_of(harness, arm),  # type: ignore[misc]
                f"arm {arm} to have learned",
                processes=harness.processes,
            )
        for name in ("trainer-sam", "trainer-again"):
            harness.end(name)
        harness.processes.stop()
        announced = [read_update_headers(each.headers()) for each in harness.messages(harness.topics.model_updates)]
        behaviors = {record.partition: record.offset + 1 for record in harness.records(harness.topics.behaviors)}
    sam, counts = (saved(harness, arm) for arm in ARMS)
    assert sam is not None
    assert counts is not None
    # The trainer of the first arm that reads statistics counts for all: two would write over each other's counts.
    assert set(sam.arms) == {"sam", STATISTICS}
    assert set(counts.arms) == {"counts"}
    assert {int(n): offset for n, offset in sam.arms[STATISTICS].progress["offsets"].items() if offset} == behaviors
    assert {each.epoch for each in announced if each and each.arm == STATISTICS} == {sam.epoch}
    for arm, checkpoint in zip(ARMS, (sam, counts), strict=True):
        assert judged(harness, arm) == shown_of(harness, arm) > 0
        assert checkpoint.counts["samples"] == len(harness.shown()), "each recognises all samples"
        assert {each.epoch for each in announced if each and each.arm == arm} <= set(range(1, checkpoint.epoch + 1))
    log = harness.processes.log("trainer-counts").read_text()
    assert "statistics_elsewhere counted_by=sam" in log
    assert counts.epoch > 1, "the one that was killed began again above all"
