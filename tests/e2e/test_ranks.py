"""A trainer of two ranks on a running system: each sample once, whoever is killed where; and other numbers of ranks."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.serialization.checkpoint import Checkpoint, load_newest
from state.partition import Partition, link_state
from stream.local.ports import free_port
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from stream.trainer.sequences import SEQUENCES
from tests.e2e.harness import LENGTH, Harness, wait_for

TWO = ("--ranks", "2")


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    # Windows close a minute after what was shown: until then users go on, and the trainer with them.
    return Harness(kafka, topics, topic_prefix, tmp_path, state={"slack": 1024})


def newest(harness: Harness) -> Checkpoint:
    found = load_newest(harness.directory / "checkpoints").checkpoint
    assert found is not None
    return found


def learn_more(harness: Harness) -> None:
    """Let users visit until a checkpoint has learned from it."""
    before = harness.trained()

    def learned() -> bool:
        harness.traffic(1)
        harness.react(0.1)
        return harness.trained() > before

    wait_for(learned, "learning", processes=harness.processes)


def settle(harness: Harness) -> Checkpoint:
    """Balance the accounts, and see that what was learned is in the checkpoint once, with its sequences."""
    harness.settle()
    saved = newest(harness)
    judged = sum(state.progress["metrics"]["total"]["samples"] for name, state in saved.arms.items() if "_" not in name)
    assert judged == len(harness.shown())
    assert saved.offsets.keys() == set(range(4))
    found, expected = load_newest(harness.directory / "checkpoints"), harness.oracle()
    assert found.path is not None
    for kept in sorted((found.path / SEQUENCES).iterdir()):
        link_state(kept, copy := harness.directory / f"looked-at-{kept.name}")
        partition = Partition.open(copy, length=LENGTH, slack=harness.settings.state.slack)
        for user in expected:
            if count := partition.sequences.count(user):
                whole = harness.folded()[user][:count][-LENGTH:]
                assert partition.sequences.read(user).tobytes() == whole.tobytes(), user
        partition.close()
    assert len(list((found.path / SEQUENCES).iterdir())) == 4
    return saved


def refusals(harness: Harness, worker: str) -> list[str]:
    """Return the updates that a worker has refused for what is in them."""
    lines = harness.processes.log(worker).read_text().splitlines()
    return [line for line in lines if "update_refused" in line and "WARNING" in line]


@pytest.mark.slow
def test_two_ranks_learn_every_sample_once_and_workers_serve_them(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer", *TWO)
        harness.start_worker("worker", instance="one")
        harness.wander(200)

        def served() -> bool:
            harness.traffic(1)
            return {score.arm for score in harness.answers.values() if score.version > 0} == {"sam", "counts"}

        wait_for(served, "updates to be served", processes=harness.processes)
        saved = settle(harness)
        assert (saved.ranks, saved.epoch) == (2, 1)
        assert not refusals(harness, "worker")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "points"),
    [(0, ["gradients@4", "manifest@2", "part@9"]), (1, ["vectors@3", "shard@2", "part@9"])],
    ids=["first", "second"],
)
def test_a_rank_that_is_killed_ends_the_job_and_its_restart_learns_every_sample_once(
    harness: Harness, rank: int, points: list[str]
) -> None:
    """Kill -9 at the exchange, at the checkpoint, and while an update is published, one after the other."""
    with harness:
        harness.start_worker("worker", instance="one")
        harness.wander(200)
        for number, point in enumerate(points):
            name = f"trainer-{number}"
            environment = {"SAMSTREAM_FAILPOINT": f"{rank}/{point}"}
            job = harness.processes.start(name, "trainer", *TWO, environment=environment)
            harness.processes.release(name)

            def ended(job: subprocess.Popen[bytes] = job) -> bool:
                harness.ask()
                harness.react(0.1)
                return job.poll() is not None

            wait_for(ended, f"rank {rank} to be killed at {point}", processes=harness.processes)
            log = harness.processes.log(name).read_text()
            assert job.returncode == 1, log
            assert f"rank_ended rank={rank} how='was killed by SIGKILL'" in log or "has lost another one" in log, log
            assert "Traceback" not in log, log
        harness.processes.start("trainer", "trainer", *TWO)
        learn_more(harness)
        saved = settle(harness)
        assert saved.epoch == len(points) + 1
        assert not refusals(harness, "worker")


@pytest.mark.slow
def test_one_rank_goes_on_from_two_and_two_from_one(harness: Harness) -> None:
    with harness:
        harness.start_worker("worker", instance="one")
        harness.wander(200)
        for name, ranks in (("one", 1), ("two", 2), ("three", 3), ("again", 1)):
            harness.processes.start(name, "trainer", "--ranks", str(ranks))
            learn_more(harness)
            assert newest(harness).ranks == ranks
            rows = {arm: len(state.tensors.get("item/keys", ())) for arm, state in newest(harness).arms.items()}
            assert rows["sam"] > 10
            if name != "again":
                harness.end(name)
                harness.traffic(3)
        settle(harness)
        assert not refusals(harness, "worker")


@pytest.mark.slow
def test_a_rank_without_data_stalls_nobody(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    users = [user for user in (f"user-{number}" for number in range(80)) if partition_of(user.encode(), 4) % 2 == 0]
    with Harness(kafka, topics, topic_prefix, tmp_path, users=users) as harness:
        harness.processes.start("trainer", "trainer", *TWO)
        harness.start_worker("worker", instance="one")
        harness.wander(100)
        learn_more(harness)
        before, began = newest(harness).step, time.monotonic()

        def turns_taken() -> bool:
            harness.traffic(1)
            return newest(harness).step > before + 50

        wait_for(turns_taken, "50 turns", processes=harness.processes)
        assert time.monotonic() - began < 20, "a silent rank joins a turn after 50 ms"
        harness.settle()
        assert {number % 2 for number, offset in newest(harness).offsets.items() if offset} == {0}


def test_ranks_that_are_set_otherwise_refuse_to_start_and_say_what_differs(harness: Harness) -> None:
    port = str(free_port())
    with harness:
        for rank, differing in enumerate(("trainer.batch_size=32", "trainer.batch_size=64")):
            environment = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            harness.processes.start(f"rank-{rank}", "trainer", "--set", differing, environment=environment)
        for rank in range(2):
            words = harness.last_words(f"rank-{rank}")
            assert "rank 1 has other settings than rank 0: trainer.batch_size" in words


@pytest.mark.slow
def test_torchrun_runs_the_ranks_as_well(harness: Harness) -> None:
    log = harness.directory / "torchrun.txt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "stream.cli", "trainer", "--config", str(harness.directory / "settings.json")]
    with harness, log.open("wb") as output:
        torchrun = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            harness.start_worker("worker", instance="one")
            harness.wander(100)
            learn_more(harness)
            assert newest(harness).ranks == 2
        finally:
            torchrun.terminate()
            torchrun.wait(60)
        harness.processes.start("trainer", "trainer", *TWO)
        settle(harness)
