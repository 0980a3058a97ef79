"""What every reader does where Kafka has removed records that it has not read: it stops, or goes on and says so."""

import logging
from typing import Literal

from stream.errors import StreamError
from stream.runtime.logs import log


def skip_removed(
    on_missing: Literal["stop", "skip"],
    topic: str,
    partition: int,
    *,
    reached: int,
    oldest: int,
    end: int | None = None,
    says: str = "",
    error: type[StreamError],
    logger: logging.Logger,
) -> int:
    """Return how many records are skipped, and log them.

    Args:
        on_missing: as `topics.on_missing_records` says.
        topic: the topic.
        partition: the partition number.
        reached: the offset that should have come next.
        oldest: the first one that Kafka has.
        end: the first one that came; `oldest` if None.
        says: who has read it; where empty, that it was read.
        error: of this kind.
        logger: of the reader.

    Raises:
        StreamError: of the kind `error`, where records must not be skipped.
    """
    missing = (oldest if end is None else end) - reached
    if on_missing == "stop":
        raise error(
            f"{says or f'{topic}/{partition} was read'} up to {reached}, and Kafka has removed what came then: its"
            f" oldest record is {oldest}. Start with topics.on_missing_records=skip to go on without these {missing}"
            " records."
        )
    log(logger, "records_missing", logging.WARNING, topic=topic, partition=partition, missing=missing, oldest=oldest)
    return missing
