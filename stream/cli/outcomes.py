"""Outcomes and scores as Kafka has them now, read once from a time on to their end."""

import logging
import time
from collections.abc import Mapping

from stream.errors import KafkaClientError
from stream.experiment.ledger import Ledger, ReadSummary
from stream.experiment.serving_cost import ServingCosts
from stream.kafka.clients import to_record
from stream.kafka.reader import TopicReader
from stream.runtime import signals as interrupts
from stream.runtime.progress import Progress
from stream.schema.events import DECODE_ERRORS, decode_outcome, decode_score
from stream.schema.topics import Topics

_logger = logging.getLogger("samstream.report")
_SILENT_S = 60.0


def read_traffic(
    kafka: Mapping[str, str], topics: Topics, ledger: Ledger, answers: ServingCosts, *, begin: int | None
) -> ReadSummary:
    """Read `outcomes` into a ledger, and `scores` of the ledger's times into answers.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        ledger: takes outcomes; it says which times count.
        answers: takes scores.
        begin: record time (ms) to begin with; None for everything that Kafka has.

    Raises:
        KafkaClientError: for topics that do not exist, and when nothing comes any more from a Kafka that has more.
    """
    tail = TopicReader(kafka, [topics.outcomes, topics.scores], from_beginning=begin is None, since_ms=begin)
    cut = {partition for topic, partition in tail.removed if topic == topics.outcomes}
    found = ReadSummary(partitions=sum(topic == topics.outcomes for topic, _ in tail.positions), cut=len(cut))
    progress = Progress(_logger, "reading", "records", total := tail.left())
    heard = time.monotonic()
    try:
        while not tail.at_end():
            interrupts.check()
            for message in tail.read(1.0):
                heard, record = time.monotonic(), to_record(message)
                try:
                    if record.topic == topics.scores:
                        if ledger.within((score := decode_score(record.value or b"")).ts):
                            answers.add(score)
                        continue
                    found.outcomes += 1
                    if record.partition in cut:
                        cut.remove(record.partition)
                        found.whole_from = max(found.whole_from, record.timestamp)
                    ledger.add(record.partition, decode_outcome(record.value or b""))
                except DECODE_ERRORS:
                    found.unreadable += record.topic == topics.outcomes
            progress.reach(total - tail.left())
            if time.monotonic() - heard > _SILENT_S:
                raise KafkaClientError(f"nothing came for {_SILENT_S:.0f} s, and {tail.left()} records are not read")
    finally:
        progress.close()
        tail.close()
    return found
