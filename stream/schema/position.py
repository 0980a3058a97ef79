"""What an offset is an offset of: the cluster, the topic and its id, and the last record before it.

An offset alone means nothing once its topic was deleted and recreated, or read on another cluster or under another
prefix. So an origin is kept with every offset that outlives a process: in the state, in checkpoints, in the metadata of
committed offsets. Topic ids are of KIP-516; a broker that has none is told apart by the time of the last record.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from msgspec import Struct

Difference = Literal["", "cluster", "topic", "id", "partitions", "end"]
"""How a log differs from the one that an offset was kept of; empty when it does not, `end` when it lost its end."""


class LogIdentity(Struct, frozen=True):
    """Which log this is.

    Attributes:
        cluster: Kafka's cluster id.
        topic: the topic's name, prefix included.
        topic_id: Kafka's topic id; empty where the broker has none.
        partitions: how many partitions the topic has.
    """

    cluster: str
    topic: str
    topic_id: str
    partitions: int


class Origin(Struct, frozen=True, array_like=True):
    """What is kept with an offset.

    Attributes:
        log: the log that it counts in.
        timestamp: Kafka timestamp (ms) of the record before the offset; −1 when not known.
    """

    log: LogIdentity
    timestamp: int = -1

    def encode(self) -> str:
        """Return it as text, for the metadata of an offset commit (KIP-98) or a value in the state."""
        return _encode(self).decode()

    def difference(self, now: LogIdentity) -> Difference:
        """Return how a log differs from this one; where either has no topic id, ids are not compared."""
        if self.log.cluster != now.cluster:
            return "cluster"
        if self.log.topic != now.topic:
            return "topic"
        if self.log.topic_id and now.topic_id and self.log.topic_id != now.topic_id:
            return "id"
        return "partitions" if self.log.partitions != now.partitions else ""


def decode_origin(text: str | None) -> Origin | None:
    """Return the origin that `Origin.encode` wrote; None for anything else, such as the metadata of another program."""
    try:
        return _decode(text or "")
    except msgspec.MsgspecError:
        return None


def kept_origin(text: str | None, now: LogIdentity) -> Origin:
    """Return the origin that was kept with an offset; before origins were kept, one of this cluster is taken for it."""
    return decode_origin(text) or Origin(LogIdentity(now.cluster, now.topic, "", now.partitions))


def encode_origins(
    logs: Mapping[str, LogIdentity], where: Iterable[tuple[str, int]], timestamps: Mapping[tuple[str, int], int]
) -> dict[int, str]:
    """Return partition number → what an offset in it is an offset of, as text, for the partitions of one topic.

    Args:
        logs: topic → which log it is.
        where: topic and partition number of each.
        timestamps: topic and partition number → Kafka timestamp (ms) of the record before the offset, where known.
    """
    return {number: Origin(logs[topic], timestamps.get((topic, number), -1)).encode() for topic, number in where}


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Origin).decode
