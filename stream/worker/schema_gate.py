"""Holds back records whose schema is not known yet, with all that comes behind them in their partition."""

from collections.abc import Sequence

from confluent_kafka import Message

from stream.schema.formats import Formats

Where = tuple[str, int]
"""Topic and partition number."""


class SchemaGate:
    """Lets records through in the order of their partitions, each once its schema is known, or known not to be.

    Args:
        formats: of the topics.
        topics: those that are read.
    """

    def __init__(self, formats: Formats, topics: Sequence[str]) -> None:
        self._formats = formats
        self._open = not any(map(formats.reads, topics))
        self._held: list[Message] = []
        self.partitions: set[Where] = set()
        """Where something is held back."""

    def admit(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return what may be dispatched: of what was held back before, then of these messages."""
        if self._open or not (messages or self._held):
            return messages
        admitted: list[Message] = []
        held: list[Message] = []
        self.partitions = set()
        for message in (*self._held, *messages):
            number = message.partition()
            where = message.topic() or "", -1 if number is None else number
            # Errors, too, stay in their place: such as the end of the partition behind what is held.
            if where in self.partitions:
                held.append(message)
            elif message.error() is None and not self._formats.ready(where[0], message.value()):
                self.partitions.add(where)
                held.append(message)
            else:
                admitted.append(message)
        self._held = held
        return admitted

    def clear(self) -> None:
        """Forget what is held back: it will be read again."""
        self._held = []
        self.partitions = set()
