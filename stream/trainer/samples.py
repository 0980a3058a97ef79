"""Reads samples in order, each with the sequence that it names, and knows up to where they were handed out."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Message

from state.behavior import BehaviorArray
from stream.kafka.clients import to_record
from stream.kafka.reader import TopicReader
from stream.schema.events import DECODE_ERRORS, Sample, SequenceName, decode_sample
from stream.schema.position import LogIdentity
from stream.trainer.sequences import NamedSequences


@dataclass(frozen=True, slots=True)
class ReadSample:
    """A record of `samples`.

    Attributes:
        message: as it was read.
        sample: what it says, or why it cannot be read.
        sequence: (L,) the behaviours that it names; None when they cannot be had.
        void: whether its user was erased after it was scored: it is not to be learned.
    """

    message: Message
    sample: Sample | Exception
    sequence: BehaviorArray | None = None
    void: bool = False


class SampleReader:
    """Hands out samples once the behaviours that they had read are folded; the others wait.

    Args:
        reader: reads `samples`.
        sequences: finds what they name.
    """

    def __init__(self, reader: TopicReader, sequences: NamedSequences) -> None:
        self._reader = reader
        self._sequences = sequences
        self._waiting: deque[tuple[Message, Sample | Exception]] = deque()
        self.timestamps = dict(reader.timestamps)
        """(topic, partition) → the Kafka timestamp (ms) of the last record that was handed out."""

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """(topic, partition) → the next offset to be handed out."""
        positions = dict(self._reader.positions)
        for message, _ in reversed(self._waiting):
            record = to_record(message)
            positions[record.topic, record.partition] = record.offset
        return positions

    @property
    def logs(self) -> Mapping[str, LogIdentity]:
        """Topic → which log is read."""
        return self._reader.logs

    @property
    def missing(self) -> int:
        """Records, of samples and of behaviours, that Kafka had removed before they could be read."""
        return self._reader.missing + self._sequences.missing

    def lag(self) -> int:
        """Return how many samples wait, as far as the client has heard."""
        return self._reader.lag() + len(self._waiting)

    def read(self, timeout_s: float, *, limit: int, fill: bool = False) -> list[ReadSample]:
        """Return the next samples, at most `limit`; waits up to `timeout_s` for the first.

        Args:
            timeout_s: how long to wait.
            limit: the most samples.
            fill: whether to wait for as many as `limit`, not only for the first.

        Raises:
            KafkaClientError: when `samples` or `behaviors` cannot be read on.
            TopicError: when one of them was recreated.
        """
        if not self._waiting:
            messages = self._reader.read(timeout_s, limit=limit, fill=fill)
            self._waiting.extend((message, _decoded(message)) for message in messages)
        self._sequences.poll(idle=not self._waiting and self._reader.at_end() and not self._reader.lag())
        ready: list[ReadSample] = []
        found: dict[
            tuple[int, str, SequenceName], BehaviorArray | None
        ] = {}  # records of one request name one sequence
        while self._waiting and len(ready) < limit:
            message, sample = self._waiting[0]
            record, sequence, void = to_record(message), None, False
            if isinstance(sample, Sample):
                void = self._sequences.voids(record.partition, sample.user, sample.sequence)
            if isinstance(sample, Sample) and not void:
                if not self._sequences.reach(record.partition, sample.sequence.read_to):
                    break
                named = record.partition, sample.user, sample.sequence
                if named not in found:
                    found[named] = self._sequences.find(*named)
                sequence = found[named]
            self._waiting.popleft()
            self.timestamps[record.topic, record.partition] = record.timestamp
            ready.append(ReadSample(message, sample, sequence, void))
        return ready


def _decoded(message: Message) -> Sample | Exception:
    try:
        return decode_sample(message.value() or b"")
    except DECODE_ERRORS as error:
        return error
