"""Writes what no client would write: any bytes, under any key, into any partition; and a sample to damage."""

import time
from collections.abc import Mapping
from typing import Self

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from state.behavior import behaviors, checksum, item_key
from stream.kafka.clients import to_record
from stream.schema.events import Sample, SequenceName
from stream.schema.record import Record
from tests.e2e.harness import ITEMS, USERS

Headers = list[tuple[str, str | bytes | None]]


class RawWriter:
    """A plain producer without the checks of `stream.client.Client`; every write waits until Kafka has it."""

    def __init__(self, kafka: Mapping[str, str]) -> None:
        # Alone larger than what Kafka takes, so that the broker gets to see it.
        self._producer = Producer({**kafka, "message.max.bytes": "20000000", "linger.ms": "0"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.flush(10)

    def write(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = 0,
        headers: Headers | None = None,
    ) -> Record:
        """Write a record and return it as a consumer will see it.

        Raises:
            KafkaException: when Kafka does not take it.
        """
        reports: list[Message] = []
        errors: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                errors.append(error)
            reports.append(message)

        self._producer.produce(topic, value, key, partition, on_delivery=delivered, headers=headers)
        assert self._producer.flush(30) == 0, f"Kafka has not said whether it took a record for {topic}"
        if errors:
            raise KafkaException(errors[0])
        # The report's own value and key are not all there on every version of the client.
        return to_record(reports[0])._replace(key=key, value=value)


def now_ms() -> int:
    return round(1000 * time.time())


def good_sample(request_id: str, ts: int | None = None) -> Sample:
    """A sample of a user without a history that a trainer learns from."""
    items = ITEMS[:2]
    return Sample(
        request_id=request_id,
        user=USERS[0],
        arm="sam",
        ts=now_ms() if ts is None else ts,
        epoch=1,
        version=1,
        clicked_at=0,
        sequence=SequenceName(checksum=checksum(behaviors([]))),
        items=np.array([item_key(item) for item in items], "<u8").tobytes(),
        categories=np.zeros(2, "<u4").tobytes(),
        positions=np.arange(2, dtype="<u2").tobytes(),
        labels=np.zeros(2, "u1").tobytes(),
    )
