"""Features of callers on their way from an impression through its open request into samples."""

from collections.abc import Sequence

from state.feature_layout import FeatureLayout, parse_layout
from state.records import Record, Records, converted, read_records
from stream.schema.events import Impression
from stream.schema.features import packed_features
from stream.task.joiner import PendingImpression


def packed_features_of(impression: Impression) -> tuple[bytes, bytes]:
    """Return the record of an impression's features, and those of its candidates one after another."""
    attributes = b"".join(packed_features(candidate.features) for candidate in impression.candidates)
    return packed_features(impression.features), attributes


def features_of(impression: Impression, layout: FeatureLayout) -> tuple[Records, Records]:
    """Return the (1,) record of an impression's features, and the (C,) records of its candidates'."""
    context, attributes = packed_features_of(impression)
    return read_records(context, layout.context, 1), read_records(attributes, layout.item, len(impression.candidates))


def served_features(pending: PendingImpression, indices: Sequence[int], layout: FeatureLayout) -> tuple[bytes, bytes]:
    """Return the records of an open request, and of some of its candidates, in a layout.

    An impression that was answered before the features were changed has another one.
    """
    if not pending.layout and not layout.text:
        return b"", b""
    then = parse_layout(pending.layout)
    context = _in_layout(pending.context, 1, then.context, layout.context)
    attributes = _in_layout(pending.attributes, len(pending.items), then.item, layout.item)
    return context.tobytes(), attributes[list(indices)].tobytes()


def _in_layout(packed: bytes, count: int, then: Record, now: Record) -> Records:
    return converted(read_records(packed, then, count), now)
