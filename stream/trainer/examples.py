"""What is new in a sample, as models take it: repeats are recognised, and late clicks. Knows no Kafka."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from model.example import LATE_CLICK, Example
from model.statistics.item_statistics import unpack_numbers
from state.behavior import BehaviorArray
from state.feature_layout import FeatureLayout, parse_layout
from state.records import converted, read_records
from stream.schema.dedup import RecentIds, click_ids, owner_of, sample_ids
from stream.schema.events import Sample
from stream.schema.features import NO_FEATURES


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """What is new in a sample, as the models take it.

    Attributes:
        arm: of the user.
        user: whose sample it is.
        request: its id; with `user`, its identity.
        clicked_at: as in `Sample`.
        features: sequence, items and labels. A click on what was learned as unclicked has label `LATE_CLICK`.
        ids: those that were new with it, of (request, item) pairs and of clicks.
    """

    arm: str
    user: str
    request: str
    clicked_at: int
    features: Example
    ids: npt.NDArray[np.uint64]

    @property
    def late(self) -> npt.NDArray[np.bool_]:
        """(C,) which of its items are late clicks."""
        assert self.features.labels is not None
        late: npt.NDArray[np.bool_] = self.features.labels == LATE_CLICK
        return late


def group_by_request(examples: Sequence[TrainingExample]) -> list[list[int]]:
    """Return the indices of examples that can be joined: of one request and sequence, with the same of each item."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, example in enumerate(examples):
        brought = example.features
        read = xxh3_64_intdigest(brought.sequence.tobytes())
        key = example.user, example.request, brought.ts, read, brought.numbers is None
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def unpack_sample(
    sample: Sample,
    sequence: BehaviorArray,
    seen: RecentIds,
    *,
    numbers: int = 0,
    early: bool = False,
    layout: FeatureLayout = NO_FEATURES.layout,
) -> TrainingExample | None:
    """Unpack a sample, leaving out the items learned before; None when nothing is left.

    Args:
        sample: what to unpack.
        sequence: (L,) the behaviours that it names.
        seen: what was learned before.
        early: whether items come as unclicked before that is final. Then a click on one of those is new as well.
        numbers: how many numbers of each item arms read; those of a sample that has another number are left out.
        layout: how features of callers lie in records; a sample of another layout is read as one of this.

    Raises:
        ValueError: when the packed arrays do not fit one another.
    """
    items = np.frombuffer(sample.items, dtype="<u8")
    categories = np.frombuffer(sample.categories, dtype="<u4")
    labels = np.frombuffer(sample.labels, dtype="<u1")
    theirs = parse_layout(sample.layout)
    context = attributes = None
    if layout.text:
        context = converted(read_records(sample.context, theirs.context, 1), layout.context)
        attributes = converted(read_records(sample.attributes, theirs.item, len(items)), layout.item)
    positions = np.frombuffer(sample.positions, dtype="<u2")
    if not len(items) == len(categories) == len(labels) == len(positions) or (labels > 1).any():
        raise ValueError(
            f"{len(items)} items, {len(categories)} categories, {len(labels)} labels of 0 or 1, and {len(positions)}"
            " positions"
        )
    ids = sample_ids(sample.request, items)
    take = _learned if early else _unseen
    new, labels, added = take(ids, labels, seen, owner_of(sample.user))
    if not new.any():
        return None
    known = unpack_numbers(sample.numbers, len(items), numbers)
    features = Example(
        sequence,
        sample.ts,
        items[new],
        categories[new],
        labels[new],
        numbers=None if known is None else known[new],
        positions=positions[new],
        context=context,
        attributes=None if attributes is None else attributes[new],
    )
    return TrainingExample(sample.arm, sample.user, sample.request_id, sample.clicked_at, features, added)


_Bools = npt.NDArray[np.bool_]
_Labels = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.uint64]


def _unseen(ids: _Ids, labels: npt.NDArray[np.uint8], seen: RecentIds, owner: int) -> tuple[_Bools, _Labels, _Ids]:
    """Return (C,) which items are new, (C,) their labels, and the ids that were added: one label an item."""
    new = seen.add(ids, owner)
    return new, labels.astype(np.float32), ids[new]


def _learned(ids: _Ids, labels: npt.NDArray[np.uint8], seen: RecentIds, owner: int) -> tuple[_Bools, _Labels, _Ids]:
    """Return the same where an item may come unclicked and then clicked, in whatever order and however often.

    A click is recognised by an id of its own. One whose item was learned already was learned as unclicked.
    """
    clicked = labels == 1
    new = np.ones(len(ids), np.bool_)
    of_clicks = click_ids(ids[clicked])
    new[clicked] = seen.add(of_clicks, owner)
    first = np.zeros(len(ids), np.bool_)
    first[new] = seen.add(ids[new], owner)
    added = np.concatenate([ids[first], of_clicks[new[clicked]]])
    taken = np.where(clicked & ~first, LATE_CLICK, labels).astype(np.float32)
    return new & (first | clicked), taken, added
