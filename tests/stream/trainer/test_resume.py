"""A checkpoint whose offsets lie beyond the end of the topic that it has learned from."""

import threading
from pathlib import Path

import pytest
from confluent_kafka import Producer

from model.errors import CheckpointError
from model.serialization import checkpoint
from model.serialization.checkpoint import Checkpoint
from stream.kafka.clients import consumer
from stream.kafka.identity import IdentityClient
from stream.runtime.closing import Resources
from stream.schema.position import LogIdentity, Origin
from stream.schema.topics import Topics
from stream.settings import convert
from stream.trainer.resume import resume_training
from stream.trainer.training import Training


@pytest.mark.parametrize("topic_id", ["same", "other"])
def test_samples_that_lost_their_end_are_told_and_those_made_anew_begin_anew(
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
    settings = convert({"kafka": kafka, "topics": {"prefix": topic_prefix}, "trainer": {"directory": str(tmp_path)}})
    with Resources() as resources:
        training = resources.add(Training(settings, device="cpu"))
        saved = Checkpoint(1, {0: 10}, {}, training.seen.to_array(), {}, {0: origin.encode()})
        checkpoint.save(tmp_path, saved)
        asker = resources.add(consumer(kafka, {"group.id": "nobody's"}))
        if topic_id == "same":
            told = rf"{tmp_path} .*{topics.samples}/0 up to offset 10, .*beyond its end.*Move {tmp_path} away"
            with pytest.raises(CheckpointError, match=told):
                resume_training(training, settings, now, asker, threading.Event())
        else:
            assert resume_training(training, settings, now, asker, threading.Event()).offsets == {}
