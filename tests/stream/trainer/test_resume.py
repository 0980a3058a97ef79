"""What a trainer takes up of a checkpoint: offsets that still are those of the topics, and the counts at them."""

import threading
from pathlib import Path

import pytest
from confluent_kafka import Producer

from model.errors import CheckpointError
from model.serialization import checkpoint
from model.serialization.checkpoint import ArmState, Checkpoint
from model.statistics.primary import STATISTICS, StatisticsPrimary
from state.behavior import behaviors
from stream.kafka.clients import consumer
from stream.kafka.identity import IdentityClient
from stream.runtime.closing import Resources
from stream.schema.position import LogIdentity, Origin
from stream.schema.topics import Topics
from stream.settings import convert
from stream.trainer.resume import StartOffsets, resume_training
from stream.trainer.training import Training


@pytest.mark.parametrize("topic_id", ["same", "other"])
def test_samples_that_lost_their_end_are_told_and_those_recreated_start_over(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path, topic_id: str
) -> None:
    """With the topic's id the same, Kafka has lost records: it may have been learned from others in their place."""
    found = IdentityClient(kafka).identify([topics.samples])[topics.samples]
    now = LogIdentity(found.cluster, found.topic, "id of now", found.partitions)
    origin = Origin(LogIdentity(now.cluster, now.topic, "id of now" if topic_id == "same" else "id", now.partitions))
    producer = Producer(kafka)
    for _ in range(9):
        producer.produce(topics.samples, b"", partition=0)
    assert producer.flush(30) == 0
    logs = {topics.samples: now}
    settings = convert({"kafka": kafka, "topics": {"prefix": topic_prefix}, "trainer": {"directory": str(tmp_path)}})
    with Resources() as resources:
        training = resources.add(Training(settings, device="cpu"))
        saved = Checkpoint(1, {0: 10}, {}, training.seen.to_array(), {}, {0: origin.encode()})
        checkpoint.save(tmp_path, saved)
        asker = resources.add(consumer(kafka, {"group.id": "nobody's"}))
        if topic_id == "same":
            told = rf"{tmp_path} .*{topics.samples}/0 up to offset 10, .*beyond its end.*Move {tmp_path} away"
            with pytest.raises(CheckpointError, match=told):
                resume_training(training, None, settings, logs, asker, threading.Event())
        else:
            assert resume_training(training, None, settings, logs, asker, threading.Event()).samples.offsets == {}


@pytest.mark.parametrize(
    ("topic_id", "offset", "half_life", "taken"),
    [("same", 5, 60.0, True), ("other", 5, 60.0, False), ("same", 10, 60.0, False), ("same", 5, 61.0, False)],
)
def test_counts_are_taken_up_with_their_offsets_or_neither_is(
    kafka: dict[str, str],
    topics: Topics,
    topic_prefix: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    topic_id: str,
    offset: int,
    half_life: float,
    taken: bool,
) -> None:
    """What a topic that was recreated holds again would count twice, and what others counted is no count of ours."""
    found = IdentityClient(kafka).identify([topics.samples, topics.behaviors])
    now = {topic: LogIdentity(log.cluster, topic, "id of now", log.partitions) for topic, log in found.items()}
    log = now[topics.behaviors]
    origin = Origin(LogIdentity(log.cluster, log.topic, "id of now" if topic_id == "same" else "id", log.partitions))
    producer = Producer(kafka)
    for _ in range(9):
        producer.produce(topics.behaviors, b"", partition=0)
    assert producer.flush(30) == 0
    before, statistics = (StatisticsPrimary((life,), max_rows=10, retention_s=1e9) for life in (60.0, half_life))
    before.fold(behaviors([(1, 0, 1, 1000)]))
    progress = {"offsets": {"0": offset}, "origins": {"0": origin.encode()}}
    settings = convert({"kafka": kafka, "topics": {"prefix": topic_prefix}, "trainer": {"directory": str(tmp_path)}})
    with Resources() as resources:
        training = resources.add(Training(settings, device="cpu"))
        state = ArmState(before.state(), progress)
        checkpoint.save(tmp_path, Checkpoint(1, {}, {STATISTICS: state}, training.seen.to_array()))
        asker = resources.add(consumer(kafka, {"group.id": "nobody's"}))
        start = resume_training(training, statistics, settings, now, asker, threading.Event())
    assert statistics.version == (2, 0)
    assert statistics.rows["item"] == taken
    assert start.behaviors == (StartOffsets({0: offset}, {0: -1}) if taken else StartOffsets())
    assert ("statistics_start_over" in caplog.text) is not taken
