"""What clients ask of a Kafka whose brokers have just come back."""

import time
from types import SimpleNamespace

import pytest

from stream.errors import KafkaClientError
from stream.kafka.clients import list_topics
from stream.kafka.connection import ConnectionHealth

KAFKA = {"bootstrap.servers": "broker:9092"}


class Answering:
    """An admin client whose cluster names these controllers, one an answer; no broker can be made to name none."""

    def __init__(self, *controllers: int) -> None:
        self.controllers = list(controllers)

    def list_topics(self, timeout: float) -> SimpleNamespace:  # noqa: ARG002
        controller = self.controllers.pop(0) if len(self.controllers) > 1 else self.controllers[0]
        return SimpleNamespace(controller_id=controller, topics={"controller": controller})

    def poll(self, timeout: float) -> None:
        pass


@pytest.mark.long
@pytest.mark.parametrize(("controllers", "taken"), [((1,), 1), ((-1, -1, 3), 3)])
def test_an_answer_without_a_controller_is_not_taken(controllers: tuple[int, ...], taken: int) -> None:
    client = Answering(*controllers)
    listed = list_topics(client, ConnectionHealth(KAFKA), time.monotonic() + 30)  # type: ignore[arg-type]
    assert listed["controller"] == taken  # type: ignore[comparison-overlap]


@pytest.mark.long
def test_a_kafka_that_never_names_a_controller_is_not_waited_for_beyond_the_deadline() -> None:
    with pytest.raises(KafkaClientError, match="broker:9092"):
        list_topics(Answering(-1), ConnectionHealth(KAFKA), time.monotonic() + 0.3)  # type: ignore[arg-type]
