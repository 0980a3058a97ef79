"""What aiokafka and Faust say arrives as our events, and its trouble with Kafka as the process's one trouble."""

import logging
from collections.abc import Iterator

import pytest

from stream.kafka.outage import Outage
from stream.monitor.client_log import FaustLog


@pytest.fixture
def loggers() -> Iterator[None]:
    outage = Outage("broker:9092")
    handler = FaustLog(outage)
    kept = []
    for name in ("aiokafka", "faust"):
        logger = logging.getLogger(name)
        kept.append((logger, logger.handlers, logger.propagate))
        logger.handlers, logger.propagate = [handler], False
    yield
    for logger, handlers, propagate in kept:
        logger.handlers, logger.propagate = handlers, propagate


@pytest.mark.usefixtures("loggers")
def test_trouble_is_told_once_and_refusals_and_the_rest_as_they_come(caplog: pytest.LogCaptureFixture) -> None:
    client = logging.getLogger("aiokafka")
    for _ in range(100):
        client.error("Unable connect to node with id %s: %s", 1, "[Errno 111] Connect call failed ('127.0.0.1', 26706)")
        logging.getLogger("aiokafka.consumer.fetcher").error("Failed fetch messages from %s: %s", 1, "NodeNotReady")
    client.error('Unable connect to "%s:%s": %s', "broker", 9092, "AuthenticationFailedError: no")
    try:
        raise ValueError("of\nan agent")
    except ValueError:
        logging.getLogger("faust.agents").exception("Agent\nbroke")
    ours = [record for record in caplog.records if record.name.startswith("samstream.")]
    told = [record.getMessage() for record in ours]
    assert [line.partition(" ")[0] for line in told] == ["kafka_errors", "kafka_client", "kafka_client"]
    assert "AuthenticationFailedError" in told[1]
    assert "Agent: ValueError" in told[2]
    assert not [record for record in ours if record.exc_info]
