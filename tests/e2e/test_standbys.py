"""Workers that keep copies of each other's partitions take them over with little to replay, and lose nothing."""

import re
from pathlib import Path

import pytest

from stream.local.broker import Broker
from stream.schema.topics import Topics
from tests.e2e.harness import Harness, wait_for

HISTORY = 3000


def in_directory(harness: Harness, name: str) -> list[str]:
    return ["--set", f"state.directory={harness.directory / name}"]


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path, worker={"standbys": 1, "model_wait_s": 0})


def log(harness: Harness, name: str) -> str:
    return harness.processes.log(name).read_text()


def current(harness: Harness, name: str) -> set[int]:
    """Return the partitions that a worker's newest copies have been level with their owner."""
    return {int(number) for number in re.findall(r"standby_current partition=(\d+)", log(harness, name))}


def assigned(harness: Harness, name: str) -> set[int]:
    return {int(number) for number in re.findall(r"assigned partitions=(\S*)", log(harness, name))[-1].split(",")}


def caught_up(harness: Harness, name: str) -> bool:
    """Whether a worker has said that it is done since it last said what it has to read again."""
    told = log(harness, name)
    return told.rfind(" caught_up ") > told.rfind(" replaying ")


def test_a_lost_workers_partitions_go_on_from_the_others_copies(harness: Harness, broker: Broker) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.wander(HISTORY)
        harness.start_worker("a", *in_directory(harness, "a"))
        harness.start_worker("b", *in_directory(harness, "b"))
        wait_for(
            lambda: len(assigned(harness, "a")) == len(assigned(harness, "b")) == 2,
            "each to have two partitions",
            processes=harness.processes,
        )
        harness.traffic(20)
        lost = assigned(harness, "a")
        wait_for(lambda: lost <= current(harness, "b"), "b's copies to be level", processes=harness.processes)
        harness.wander(100)
        harness.traffic(20)
        # The embedded broker keeps the partitions of a member that was killed.
        (harness.kill if broker.durable else harness.end)("a")
        for _ in range(10):
            harness.ask()
            harness.wander(3)
        wait_for(lambda: len(assigned(harness, "b")) == 4, "b to have all partitions", processes=harness.processes)
        harness.await_answers()
        # The last answer may be out before the line that says how much was read again.
        wait_for(lambda: caught_up(harness, "b"), "b to say that it has caught up", processes=harness.processes)
        told = log(harness, "b")
        adopted = {
            int(number): int(offset)
            for number, offset in re.findall(r"standby_adopted partition=(\d+) behaviors=(\d+)", told)
        }
        assert adopted.keys() == lost
        # Far more lies in Kafka than was read again.
        replayed = int(re.findall(r"caught_up records=(\d+)", told)[-1])
        assert replayed < HISTORY / 4, told
        harness.traffic(20)
        harness.come_to_rest()
        harness.check_answers()
        harness.check_samples()
        harness.check_sequences("b")
