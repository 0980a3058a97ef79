"""Metadata of offsets that another client has committed: librdkafka may read on behind its end."""

import asyncio
from contextlib import closing

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as Partition

from stream.kafka.clients import consumer
from stream.kafka.offsets import committed_offsets, metadata_of
from stream.schema.topics import Topics

pytestmark = pytest.mark.broker


def read_back(kafka: dict[str, str], topics: Topics, texts: list[str]) -> list[str | None]:
    """Commit each text with aiokafka, as the monitor does, and read it as a worker does."""
    group = f"{topics.outcomes}-readers"

    async def main() -> list[str | None]:
        theirs = AIOKafkaConsumer(
            bootstrap_servers=kafka["bootstrap.servers"], group_id=group, enable_auto_commit=False
        )
        place, found = Partition(topics.outcomes, 0), []
        await theirs.start()
        try:
            theirs.assign([place])
            with closing(consumer(kafka, {"group.id": group})) as ours:
                for offset, text in enumerate(texts):
                    await theirs.commit({place: OffsetAndMetadata(offset, text)})
                    [known] = await asyncio.to_thread(committed_offsets, ours, topics.outcomes, [0])
                    assert known.offset == offset
                    found.append(metadata_of(known))
        finally:
            await theirs.stop()
        return found

    return asyncio.run(main())


def test_text_that_ends_with_nul_is_read_as_it_was_written(kafka: dict[str, str], topics: Topics) -> None:
    texts = [length * "x" for length in range(60, 140)]
    assert read_back(kafka, topics, [f"{text}\0" for text in texts]) == texts


def test_other_text_ends_nobody(kafka: dict[str, str], topics: Topics) -> None:
    texts = [length * "x" for length in range(60, 140)]
    for text, found in zip(texts, read_back(kafka, topics, texts), strict=True):
        assert found is None or found.startswith(text)
