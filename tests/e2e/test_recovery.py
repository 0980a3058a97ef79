"""What a worker tells while it restores and replays, and that it is healthy meanwhile."""

import re
import shutil
from itertools import pairwise
from pathlib import Path

from confluent_kafka import Producer

from stream.local.ports import free_port
from stream.schema.events import Behavior, encode_json
from stream.schema.topics import Topics
from tests.e2e.harness import Harness, wait_for
from tests.e2e.served import health, served

MANY = 150_000


def test_a_worker_with_an_empty_disk_tells_how_far_it_is_and_is_healthy_meanwhile(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    snapshots = {"snapshots": str(tmp_path / "snapshots"), "snapshot_interval_s": 0.5}
    harness = Harness(kafka, topics, topic_prefix, tmp_path, state=snapshots)
    with harness:
        harness.wander(MANY)
        harness.client.flush()
        port = free_port()
        options = ("--set", f"worker.metrics=127.0.0.1:{port}", "--set", "worker.model_wait_s=0")
        harness.processes.start("worker-1", "worker", *options)
        log = harness.processes.log("worker-1")
        lefts: list[float] = []
        since: list[float] = []  # when all partitions are there

        def caught_up() -> bool:
            assigned = "assigned partitions=0,1,2,3" in log.read_text()
            try:
                assert health(port)[0] == 200
                told = served(port)
            except OSError:  # it does not listen yet
                assert not lefts
                return False
            if ("samstream_replay_left_records",) in told:
                lefts.append(told["samstream_replay_left_records",])
                if assigned:
                    since.append(lefts[-1])
                assert told["samstream_replayed_ratio",] <= 1
            # A partition may be caught up with before the next one is ready, which is told by itself then.
            done = map(int, re.findall(r" caught_up records=(\d+) ", log.read_text()))
            return sum(done) == MANY and lefts[-1:] == [0]

        wait_for(caught_up, "the worker to catch up", processes=harness.processes)
        assert any(before > left > 0 for before, left in pairwise(lefts)), lefts
        assert since == sorted(since, reverse=True)
        assert served(port)["samstream_replay_seconds",] > 0

        def all_have_some() -> bool:
            harness.traffic(2)
            return len({path.parent for path in tmp_path.glob("snapshots/partition-*/*.json")}) == 4

        wait_for(all_have_some, "a snapshot of each partition", processes=harness.processes)
        harness.end("worker-1")
        shutil.rmtree(tmp_path / "state")

        harness.start_worker("worker-2", *options)
        wait_for(lambda: ("samstream_restored_ratio", "3") in served(port), "a reading", processes=harness.processes)
        told = served(port)
        assert [told["samstream_restored_ratio", str(number)] for number in range(4)] == [1] * 4
        text = harness.processes.log("worker-2").read_text()
        assert text.count(" bytes=0 ") == 4, "a line at the start of each"
        sizes = [int(size) for size in re.findall(r"restored partition=.* bytes=(\d+) seconds=", text)]
        assert len(sizes) == 4
        assert told["samstream_restore_bytes_total",] == sum(sizes) > 0
        harness.traffic(3)


def test_the_marker_of_a_transaction_is_no_record_that_waits(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    producer = Producer({**kafka, "transactional.id": topic_prefix, "partitioner": "murmur2_random"})
    producer.init_transactions(30)
    harness = Harness(kafka, topics, topic_prefix, tmp_path)

    def written(count: int) -> None:
        producer.begin_transaction()
        for number in range(count):
            event = Behavior(user=harness.users[number % 9], item="item-1", ts=1000 + number)
            producer.produce(topics.behaviors, encode_json(event), key=event.user)
        producer.commit_transaction(30)

    written(50)
    with harness:
        port = free_port()
        harness.start_worker("worker-1", "--set", f"worker.metrics=127.0.0.1:{port}", "--set", "worker.model_wait_s=0")
        log = harness.processes.log("worker-1")
        wait_for(lambda: "caught_up" in log.read_text(), "the end of the replay", processes=harness.processes)
        written(50)

        def all_told() -> bool:
            told = served(port)
            return (
                told.get(("samstream_records_total", "worker")) == 100 and not told["samstream_lag_records", "worker"]
            )

        wait_for(all_told, "no lag", processes=harness.processes)
