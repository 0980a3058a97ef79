"""A worker whose disk is lost begins with a snapshot; what is damaged, or gone from Kafka, is said."""

import re
import shutil
import time
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from state.partition import Partition
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from tests.e2e.forked import run_forked
from tests.e2e.harness import LENGTH, Harness, wait_for

QUICK = ("--set", "worker.model_wait_s=0")


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    state = {"snapshots": str(tmp_path / "snapshots"), "snapshot_interval_s": 0.5, "snapshots_kept": 3}
    return Harness(kafka, topics, topic_prefix, tmp_path, state=state)


def snapshots(harness: Harness) -> list[Path]:
    return sorted((harness.directory / "snapshots").glob("partition-*/*.json"))


def all_have_some(harness: Harness) -> bool:
    harness.traffic(2)
    return len({path.parent for path in snapshots(harness)}) == 4


def test_a_lost_disk_is_restored_from_the_newest_whole_snapshot_and_the_log(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker-1")
        harness.wander(1500)
        wait_for(lambda: all_have_some(harness), "a snapshot of each partition", processes=harness.processes)
        harness.wander(200)
        harness.traffic(10)
        harness.end("worker-1")
        shutil.rmtree(harness.directory / "state")
        # The newest snapshot of one partition is damaged: the one before it, or the log alone, has to do.
        newest = max(path for path in snapshots(harness) if "partition-00001" in str(path))
        newest.write_text(newest.read_text().replace('"offsets"', '"offset"'))

        harness.start_worker("worker-2")
        log = harness.processes.log("worker-2").read_text()
        assert log.count("restored partition=") >= 3, log
        assert "snapshot_refused partition=1" in log
        harness.traffic(30)
        harness.settle()


def start_with_a_slow_restore(harness: Harness, number: int, *arguments: str) -> tuple[Path, Path]:
    """Start a worker that lacks the state of one partition, and restores its snapshot when a file is made.

    Returns:
        Its log, and the path of that file.
    """
    harness.start_worker("before", *QUICK)
    harness.wander(500)
    wait_for(lambda: all_have_some(harness), "a snapshot of each partition", processes=harness.processes)
    harness.end("before")
    shutil.rmtree(harness.directory / "state" / f"partition-{number:05d}")
    go_on = harness.directory / "go on"
    waits = {"SAMSTREAM_FAILPOINT": f"restoring@1:{go_on}"}
    harness.processes.start("slow", "worker", *QUICK, *arguments, environment=waits)
    log = harness.processes.log("slow")
    wait_for(lambda: f"restoring partition={number}" in log.read_text(), "the restore", processes=harness.processes)
    return log, go_on


@pytest.mark.slow
def test_others_are_answered_and_the_member_stays_while_a_long_restore_goes_on(harness: Harness) -> None:
    """The restore takes 9 s, or longer, where 6 s without a poll end a membership."""
    with harness:
        log, go_on = start_with_a_slow_restore(harness, 1, "--set", "kafka.max.poll.interval.ms=6000")
        since = time.monotonic()
        waiting = {user for user in harness.users if partition_of(user.encode(), 4) == 1}
        before = len(harness.asked)
        for user in harness.users:
            harness.ask(user)
        asked = harness.asked[before:]

        def others_are_answered() -> bool:
            harness.react(0.05)
            return all(request in harness.answers for request in asked if request.user not in waiting)

        wait_for(others_are_answered, "answers of the other partitions", processes=harness.processes)
        assert "restored partition=1" not in log.read_text()
        assert 0 < len([request for request in asked if request in harness.answers]) < len(asked)
        wait_for(lambda: time.monotonic() > since + 9, "the restore to be long", processes=harness.processes)
        go_on.touch()

        def all_are_answered() -> bool:
            # Records come all the time, also in the turn in which the last partition begins.
            harness.wander(300)
            harness.react(0.001)
            return len(harness.answers) == len(harness.asked)

        wait_for(all_are_answered, "all answers", processes=harness.processes)
        told = log.read_text()
        assert "assigned partitions=0,1,2,3" in told
        assert not re.search(" (lost|revoked|rejoining) ", told)
        harness.traffic(5)
        harness.end("slow")


@pytest.mark.slow
def test_a_restore_ends_when_another_worker_joins(harness: Harness) -> None:
    with harness:
        log, _ = start_with_a_slow_restore(harness, 3)  # which nothing but the other worker ends
        harness.start_worker("joins", *QUICK)
        wait_for(lambda: " assigned partitions=" in log.read_text(), "both to have partitions")
        told = log.read_text()
        # Lost, where the group hears of an offset commit after it has begun to rebalance.
        taken_away = re.search(r" (revoked|lost) partitions=0,1,2,3", told)
        assert taken_away is not None, told
        assert "restored partition=3" not in told[: taken_away.start()]
        harness.traffic(10)
        told = log.read_text() + harness.processes.log("joins").read_text()
        assert "restored partition=3" in told, "whoever got it began with the snapshot"
        assert "snapshot_refused" not in told
        assert not list((harness.directory / "state").glob("*.half"))


def test_what_kafka_no_longer_has_stops_the_worker_until_it_is_told_to_skip(harness: Harness) -> None:
    """The state says that it has read less than what Kafka retains."""
    harness.wander(50)
    harness.client.flush()
    behaviors = harness.topics.behaviors
    admin = AdminClient({**harness.settings.kafka})
    asked = [TopicPartition(behaviors, number, 3) for number in range(4)]
    try:
        for future in admin.delete_records(asked).values():
            future.result()
    except Exception as error:
        pytest.skip(f"this broker removes no records on demand: {error}")
    offsets = dict.fromkeys((behaviors, harness.topics.impressions, harness.topics.clicks, harness.topics.scores), 0)
    for number in range(4):
        partition = Partition.open(harness.directory / "state" / f"partition-{number:05d}", length=LENGTH, slack=64)
        partition.commit(offsets)
        partition.close()
    quick = ("--set", "worker.model_wait_s=0")
    with harness:
        harness.processes.start("stops", "worker", *quick)
        assert "topics.on_missing_records=skip" in harness.last_words("stops")
        harness.start_worker("skips", *quick, "--set", "topics.on_missing_records=skip")
        assert "records_missing topic=" in harness.processes.log("skips").read_text()
        harness.traffic(3)


def test_the_command_lists_verifies_restores_and_shows(harness: Harness) -> None:
    with harness:
        harness.start_worker("worker-1", "--set", "worker.model_wait_s=0")
        harness.wander(500)
        wait_for(lambda: all_have_some(harness), "a snapshot of each partition", processes=harness.processes)
        harness.end("worker-1")

    def state(*arguments: str) -> tuple[int, str]:
        config = str(harness.directory / "settings.json")
        done = run_forked(["state", *arguments, "--config", config], {"COLUMNS": "200"}, timeout=60)
        return done.returncode, done.stdout + done.stderr

    status, text = state("list")
    assert status == 0, text
    assert text.count(" state ") >= 4, text
    assert "snapshot 1 " in text
    assert state("verify")[0] == 0
    shutil.move(harness.directory / "state", harness.directory / "before")
    assert state("restore", "--partition", "2")[0] == 0
    assert [path.name for path in (harness.directory / "state").iterdir()] == ["partition-00002"]
    assert state("restore")[0] == 0
    status, text = state("show", "--user", "user-3")
    assert status == 0, text
    assert "behaviours so far" in text
    biggest = max(
        (harness.directory / "snapshots").glob("partition-00002/files/*"), key=lambda path: path.stat().st_size
    )
    biggest.write_bytes(biggest.read_bytes()[:-1])
    status, text = state("verify")
    assert status == 1
    assert "damaged" in text
