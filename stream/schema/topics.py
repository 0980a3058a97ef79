"""Names, keys, partition counts and settings of the topics; nothing else in the project spells them.

Every topic keyed by user has the same number of partitions and is written with the same partitioner (murmur2,
as Kafka's Java clients), so that partition p of each holds the same users: a worker that owns p has all it
needs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stream.errors import TopicError
from stream.schema.units import DAY_MS

RECORD_BYTES = 900_000
"""The largest value samstream writes: within the 1 MB that Kafka takes by default, with room for headers."""
_MESSAGE_BYTES = "1048588"
_STAMPED = {"message.timestamp.type": "LogAppendTime"}


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic is.

    Attributes:
        name: its name in Kafka, prefix included.
        key: what the Kafka key of its records is; topics whose key is `user` are co-partitioned, others have
            1 partition.
        config: Kafka's topic settings that differ from the broker's.
    """

    name: str
    key: str
    config: Mapping[str, str]

    def partitions(self, of_users: int) -> int:
        """Return the partition count, where topics keyed by user have `of_users`."""
        return of_users if self.key == "user" else 1


class Topics:
    """The topics' names, each behind `prefix`.

    Several installations on one cluster have different prefixes (and different consumer groups).

    Args:
        prefix: put before every name, such as `shop-`.

    Raises:
        TopicError: for a prefix that Kafka does not take in a name.
    """

    def __init__(self, prefix: str = "") -> None:
        if len(prefix) > 200 or not all(char.isascii() and (char.isalnum() or char in "._-") for char in prefix):
            raise TopicError(f"topics.prefix {prefix!r}: Kafka takes letters, digits, '.', '_' and '-' in a name")
        self.behaviors = f"{prefix}behaviors"
        self.impressions = f"{prefix}impressions"
        self.clicks = f"{prefix}clicks"
        self.scores = f"{prefix}scores"
        self.samples = f"{prefix}samples"
        self.outcomes = f"{prefix}outcomes"
        self.model_updates = f"{prefix}model-updates"
        self.experiment_metrics = f"{prefix}experiment-metrics"
        self.dead_letters = f"{prefix}dead-letters"
        self.erasures = f"{prefix}erasures"
        self.experiment_shares = f"{prefix}experiment-shares"

    def __iter__(self) -> Iterator[Topic]:
        """Yield what each topic is.

        The broker stamps what comes from outside: how old an impression is, and how far ahead of the clock an
        event, must not depend on the clocks of those who write. It stamps `model-updates` as well: several ranks and
        trainers write to it, and times in order tell, on a broker without topic ids, that a topic is the one of before.
        `behaviors` is kept longest: a worker without state rebuilds the sequences from it. Of `model-updates`
        the newest record of each key is what a starting worker needs, so it is compacted, in small segments
        for compaction to see. So are `erasures`: a state of any age must hear of all users who were erased.
        `experiment-shares` is kept for ever: it is the record of which shares were in force when, some 100 bytes a
        step; stamped, so that everybody agrees on which steps came in time.
        """
        yield Topic(self.behaviors, "user", _kept(90) | _STAMPED)
        yield Topic(self.impressions, "user", _kept(7) | _STAMPED)
        yield Topic(self.clicks, "user", _kept(7) | _STAMPED)
        yield Topic(self.scores, "user", _kept(1))
        yield Topic(self.samples, "user", _kept(7) | {"max.message.bytes": _MESSAGE_BYTES})
        yield Topic(self.outcomes, "user", _kept(7))
        yield Topic(
            self.model_updates,
            "arm and part",
            {
                "cleanup.policy": "compact",
                "segment.bytes": str(64 << 20),
                "min.cleanable.dirty.ratio": "0.1",
                "max.message.bytes": _MESSAGE_BYTES,
                **_STAMPED,
            },
        )
        yield Topic(self.experiment_metrics, "arm", _kept(30))
        yield Topic(self.dead_letters, "key of the refused record", _kept(30) | {"max.message.bytes": _MESSAGE_BYTES})
        yield Topic(self.erasures, "user", {"cleanup.policy": "compact"})
        yield Topic(
            self.experiment_shares, "experiment", {"cleanup.policy": "delete", "retention.ms": "-1", **_STAMPED}
        )


def _kept(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)}
