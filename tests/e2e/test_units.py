"""A front end that writes seconds where milliseconds belong is told so, and no model learns from what it wrote."""

import json
import time
from pathlib import Path

from stream.kafka.dead_letters import read_dead_letters
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from tests.e2e.harness import Harness, wait_for
from tests.e2e.raw import RawWriter

USERS = [f"user-{number}" for number in range(12)]


def test_events_in_seconds_are_dead_letters_that_say_so_and_behaviours_in_seconds_a_warning(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    worker = {"group": f"{topic_prefix}workers", "commit_interval_s": 0.2, "attribution_window_s": 3.0}
    harness = Harness(kafka, topics, topic_prefix, tmp_path, users=USERS, worker=worker)
    with harness, RawWriter(kafka) as raw:
        harness.start_worker("worker", "--set", "worker.model_wait_s=0")

        def write(topic: str, user: str, **event: object) -> None:
            value = json.dumps({"user": user, "ts": int(time.time())} | event).encode()
            raw.write(topic, value, key=user.encode(), partition=partition_of(user.encode(), 4))

        for turn in range(2):
            for user in USERS:
                write(topics.behaviors, user, item="item-1")
                write(topics.impressions, user, request_id=str(turn), candidates=[{"item": "item-1"}], slots=1)
                write(topics.clicks, user, request_id=str(turn), item="item-1")
        log = harness.processes.log("worker")
        wait_for(lambda: len(list(read_dead_letters(kafka, topics))) == 48, "all letters", processes=harness.processes)
        letters = list(read_dead_letters(kafka, topics))
        assert {letter.origin.topic for letter in letters} == {topics.impressions, topics.clicks}
        assert all("it looks like seconds; write milliseconds since 1970" in letter.reason for letter in letters)
        for topic in (topics.behaviors, topics.impressions, topics.clicks):
            line = f"ts_unit topic={topic} unit=seconds"
            wait_for(lambda line=line: line in log.read_text(), line, processes=harness.processes)  # type: ignore[misc]
        assert harness.records(topics.scores) == []
        assert harness.records(topics.samples) == []
