"""What a system knows while a data set is gone through, and its visits as examples of that; without Kafka."""

from collections.abc import Sequence

import numpy as np

from model.example import Example
from model.statistics.item_statistics import ItemStatistics
from state.behavior import action_key, behaviors, category_key, item_key
from state.layout import Ring, user_prefix
from state.sequence_buffer import SequenceBuffer
from stream.datasets.base import Step, Visit


class Histories:
    """The newest behaviours of every user, and counts of all, as the system keeps them.

    Args:
        length: behaviours of each user.
        half_lives_s: of the counts, as in `ModelSpec.statistics`.
    """

    def __init__(self, length: int, half_lives_s: Sequence[float]) -> None:
        self._length = length
        self._statistics = ItemStatistics(half_lives_s, length=length)
        self._ring = Ring.holding(length)
        self._buffers: dict[str, SequenceBuffer] = {}

    def example(self, visit: Visit) -> Example:
        """Return a visit with its user's history and the counts before it, and its clicks as labels."""
        buffer = self._buffer(visit)
        clicked = {click.item for click in visit.clicks}
        candidates, ts = visit.impression.candidates, visit.impression.ts
        sequence = buffer.records(buffer.count - self._length, buffer.count)
        items = np.array([item_key(each.item) for each in candidates], dtype=np.uint64)
        categories = np.array([category_key(each.category) for each in candidates], dtype=np.uint32)
        labels = np.array([each.item in clicked for each in candidates], dtype=np.float32)
        numbers = self._statistics.features(sequence, ts, items, categories)
        return Example(sequence, ts, items, categories, labels, numbers)

    def observe(self, step: Step) -> None:
        """Append the behaviours of a step to its user's history, and count them."""
        packed = behaviors(
            [
                (item_key(each.item), category_key(each.category), action_key(each.action), each.ts)
                for each in step.behaviors
            ]
        )
        self._buffer(step).append(packed.tobytes())
        self._statistics.fold(packed)

    def _buffer(self, step: Step) -> SequenceBuffer:
        user = step.behaviors[0].user
        return self._buffers.setdefault(user, SequenceBuffer(self._ring, user_prefix(user), 0, 0, b""))
