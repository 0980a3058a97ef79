"""Writes what no client would write: any bytes, under any key, into any partition."""

from collections.abc import Mapping
from typing import Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from stream.kafka.clients import to_record
from stream.schema.record import Record

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
