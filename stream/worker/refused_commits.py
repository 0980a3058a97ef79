"""Remembers the offset commits that Kafka refused, so that they are made again.

A commit that is not waited for is refused later, as in the middle of a rebalance, and librdkafka does not repeat it. Of
a partition in which nothing happens any more it would be the last one, and the group's lag would never be 0.
"""

import logging
from collections.abc import Sequence

from confluent_kafka import KafkaError, TopicPartition

from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.worker")


class RefusedCommits:
    """The partition numbers whose offsets Kafka has refused; to be given to a consumer as `on_commit`."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        """Those of which no later commit was made."""
        self._log_limit = LogLimit()

    def __call__(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> None:
        """Take what Kafka says to a commit: an error of all, or one of some of its partitions."""
        refused = {each.partition: said for each in offsets if (said := error or each.error) is not None}
        self.numbers |= refused.keys()
        for said in {said.code(): said for said in refused.values()}.values():
            if self._log_limit.admit(said.code()) is not None:
                # The state is durable; the group's offsets only say what was answered.
                log(_logger, "offset_commit_refused", logging.WARNING, partitions=len(refused), error=said.str())
