"""A disk that fills up under a running system: one line that says where and what to do, and nothing is lost."""

import re
from pathlib import Path

import pytest

from stream.schema.topics import Topics
from tests.e2e.harness import Harness, wait_for
from tests.small_disk import SmallDisk


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path, small_disk: SmallDisk) -> Harness:
    small = small_disk.path
    return Harness(
        kafka,
        topics,
        topic_prefix,
        tmp_path,
        state={"directory": str(small / "state")},
        trainer={"directory": str(small / "checkpoints")},
    )


def test_a_worker_without_room_for_its_state_says_so_and_loses_nothing(harness: Harness, small_disk: SmallDisk) -> None:
    with harness:
        harness.processes.start("trainer", "trainer", "--set", f"trainer.directory={harness.directory}/checkpoints")
        worker = harness.start_worker("worker")
        harness.traffic(20)
        small_disk.fill()

        def ended() -> bool:
            harness.ask()
            harness.wander(20)
            harness.react(0.01)
            return worker.poll() is not None

        wait_for(ended, "the worker to find no room")
        last = harness.last_words("worker")
        assert re.match(
            rf"samstream worker: cannot write to {small_disk.path}/state/partition-0000\d: .*No space left on device.*"
            r"\. Make room there, then start again: what was committed is kept\.$",
            last,
        ), last
        assert " revoked partitions=0,1,2,3" in harness.processes.log("worker").read_text(), "it leaves the group"
        small_disk.make_room()
        harness.start_worker("again")
        harness.await_answers()
        harness.traffic(10)
        harness.settle(str(small_disk.path / "state"))


def test_a_trainer_without_room_for_its_checkpoints_says_so_and_learns_each_sample_once(
    harness: Harness, small_disk: SmallDisk
) -> None:
    with harness:
        trainer = harness.processes.start("trainer", "trainer")
        harness.start_worker("worker", "--set", f"state.directory={harness.directory}/state")
        harness.traffic(20)
        wait_for(lambda: any((small_disk.path / "checkpoints").glob("[0-9]*")), "a checkpoint")
        small_disk.fill()

        def ended() -> bool:
            harness.ask()
            harness.react(0.05)
            return trainer.poll() is not None

        wait_for(ended, "the trainer to find no room")
        last = harness.last_words("trainer")
        # Whichever comes first: the files of a checkpoint, or the sequences beside them.
        place = small_disk.path / "checkpoints"
        cannot = "cannot (write|write checkpoints|copy .*) to"
        assert re.match(rf"samstream trainer: {cannot} {place}.*No space left.* Make room there", last), last
        assert not list((small_disk.path / "checkpoints").glob("*.half")), "half a checkpoint takes no room"
        small_disk.make_room()
        harness.processes.start("again", "trainer")
        harness.await_answers()
        harness.close_windows()
        wait_for(
            lambda: trained(harness, small_disk) >= len(harness.shown()),
            "all samples to be trained",
            processes=harness.processes,
        )
        harness.processes.stop()
        assert trained(harness, small_disk) == len(harness.shown())
        harness.check_answers()
        harness.check_samples()


def trained(harness: Harness, small_disk: SmallDisk) -> int:
    directory, harness.directory = harness.directory, small_disk.path
    try:
        return harness.trained()
    finally:
        harness.directory = directory
