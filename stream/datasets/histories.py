"""What a system knows while a data set is gone through, and its visits as examples of that; without Kafka."""

from collections.abc import Sequence

import numpy as np

from model.example import Example
from model.statistics.item_statistics import ItemStatistics
from state.behavior import action_key, category_key, from_bytes, item_key, pack
from state.layout import Ring, user_prefix
from state.records import read_records
from state.sequence_buffer import SequenceBuffer
from stream.datasets.base import Step, Visit
from stream.schema.features import NO_FEATURES, FeatureSchema


class Histories:
    """The newest behaviours of every user, and counts of all, as the system keeps them.

    Args:
        length: behaviours of each user.
        half_lives_s: of the counts, as in `ModelSpec.statistics`.
        schema: the features of events that are kept; none unless given.
    """

    def __init__(self, length: int, half_lives_s: Sequence[float], schema: FeatureSchema = NO_FEATURES) -> None:
        self._length = length
        self._schema = schema
        self._statistics = ItemStatistics(half_lives_s, length=length)
        self._ring = Ring.holding(length, schema.layout.behavior)
        self._buffers: dict[str, SequenceBuffer] = {}
        self._uncounted = bytearray()

    def example(self, visit: Visit) -> Example:
        """Return a visit with its user's history and the counts before it, and its clicks as labels."""
        buffer = self._buffer(visit)
        clicked = {click.item for click in visit.clicks}
        impression, layout = visit.impression, self._schema.layout
        candidates, ts = impression.candidates, impression.ts
        sequence = buffer.records(buffer.count - self._length, buffer.count)
        items = np.array([item_key(each.item) for each in candidates], dtype=np.uint64)
        categories = np.array([category_key(each.category) for each in candidates], dtype=np.uint32)
        labels = np.array([each.item in clicked for each in candidates], dtype=np.float32)
        self._count()
        numbers = self._statistics.features(sequence, ts, items, categories)
        context = attributes = None
        if self._schema:
            packed = [self._schema.pack_item(each.features, place) for place, each in enumerate(candidates)]
            context = read_records(self._schema.pack_context(impression.features), layout.context, 1)
            attributes = read_records(b"".join(packed), layout.item, len(candidates))
        return Example(sequence, ts, items, categories, labels, numbers, context=context, attributes=attributes)

    def observe(self, step: Step) -> None:
        """Append the behaviours of a step to its user's history, and count them."""
        packed = b"".join(
            pack(item_key(each.item), category_key(each.category), action_key(each.action), each.ts)
            + (self._schema.pack_behavior(each.features) if self._schema else b"")
            for each in step.behaviors
        )
        self._buffer(step).append(packed)
        self._uncounted += packed

    def _count(self) -> None:
        """Count what was observed; much at once is quicker than a basket at a time."""
        self._statistics.fold(from_bytes(bytes(self._uncounted), self._ring.record))
        self._uncounted.clear()

    def _buffer(self, step: Step) -> SequenceBuffer:
        user = step.behaviors[0].user
        return self._buffers.setdefault(user, SequenceBuffer(self._ring, user_prefix(user), 0, 0, b""))
