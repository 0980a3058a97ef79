"""Questions to Kafka are asked again while it may answer, and told at once where it never will."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from stream.errors import KafkaClientError, KafkaSilentError
from stream.kafka.offsets import with_retries

PASSING = [
    KafkaError._DESTROY_BROKER,
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._WAIT_CACHE,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.KAFKA_STORAGE_ERROR,
]
LASTING = [
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError._FATAL,
    KafkaError._INVALID_ARG,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.UNSUPPORTED_VERSION,
]


class Kafka:
    """Answers the question after so many errors."""

    def __init__(self, code: int, errors: int) -> None:
        self.code = code
        self.left = errors
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise KafkaException(KafkaError(self.code))
        return "answer"


@pytest.mark.long
@pytest.mark.parametrize("code", PASSING)
def test_a_question_is_asked_again_while_kafka_may_answer(code: int) -> None:
    assert with_retries(Kafka(code, errors=1), "offsets") == "answer"


@pytest.mark.parametrize("code", LASTING)
def test_an_error_that_does_not_pass_is_told_at_once(code: int) -> None:
    kafka = Kafka(code, errors=1)
    with pytest.raises(KafkaClientError, match="offsets of clicks/1: ") as told:
        with_retries(kafka, "offsets of clicks/1")
    assert kafka.asked == 1
    assert not isinstance(told.value, KafkaSilentError)


def test_silence_is_told_as_silence() -> None:
    with pytest.raises(KafkaSilentError, match="no answer from Kafka"):
        with_retries(Kafka(KafkaError._DESTROY_BROKER, errors=1000), "offsets", wait_s=0.0)
