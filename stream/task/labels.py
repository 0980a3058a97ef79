"""Turns labels of the joiner into records: samples to learn from, and outcomes to count."""

from collections.abc import Iterable, Iterator

import numpy as np

from state.behavior import item_key
from state.feature_layout import FeatureLayout
from stream.schema.events import Outcome, RequestKey, Sample, Team
from stream.schema.features import NO_FEATURES
from stream.task.features import served_features
from stream.task.joiner import LabelledItems, Use

Result = tuple[Sample | None, Outcome | None]
"""What comes of a label: a sample where it is to be learned from, an outcome where it is to be counted."""


def merge_labels(labelled_items: Iterable[LabelledItems]) -> list[LabelledItems]:
    """Return the labelled items; those of one request with the same label and use become one."""
    merged: dict[tuple[RequestKey, int, Use], LabelledItems] = {}
    for labelled in labelled_items:
        key = (labelled.pending.request, labelled.label, labelled.use)
        if known := merged.get(key):
            clicked_at = max(known.clicked_at, labelled.clicked_at)
            indices = known.indices + labelled.indices
            labelled = LabelledItems(known.pending, indices, known.label, clicked_at, known.use)
        merged[key] = labelled
    return list(merged.values())


def samples_and_outcomes(labelled: LabelledItems, layout: FeatureLayout = NO_FEATURES.layout) -> Iterator[Result]:
    """Yield a sample and its outcome, as the label's use is; of an interleaved request, those of each team.

    Args:
        labelled: items of one request that got the same label.
        layout: how features of callers lie in records.
    """
    pending = labelled.pending
    teams = pending.teams or [Team(pending.arm, pending.epoch, pending.version, [])]
    for team in teams:
        members = set(team.members) if pending.teams else None
        indices = [index for index in labelled.indices if members is None or index in members]
        if indices:
            sample = None if labelled.use == "count" else _sample(labelled, indices, team, layout)
            yield sample, None if labelled.use == "learn" else _outcome(labelled, indices, team)


def _sample(labelled: LabelledItems, indices: list[int], by: Team, layout: FeatureLayout) -> Sample:
    pending = labelled.pending
    context, attributes = served_features(pending, indices, layout)
    width = len(pending.numbers) // len(pending.items)
    return Sample(
        request_id=pending.request_id,
        user=pending.user,
        arm=by.arm,
        ts=pending.ts,
        epoch=by.epoch,
        version=by.version,
        clicked_at=labelled.clicked_at,
        sequence=pending.sequence,
        items=np.array([item_key(pending.items[index]) for index in indices], dtype="<u8").tobytes(),
        categories=np.array([pending.categories[index] for index in indices], dtype="<u4").tobytes(),
        positions=np.array([pending.ranks[index] for index in indices], dtype="<u2").tobytes(),
        labels=np.full(len(indices), labelled.label, dtype="<u1").tobytes(),
        numbers=b"".join(pending.numbers[index * width : (index + 1) * width] for index in indices),
        layout=layout.text,
        context=context,
        attributes=attributes,
    )


def _outcome(labelled: LabelledItems, indices: list[int], by: Team) -> Outcome:
    pending = labelled.pending
    return Outcome(
        request_id=pending.request_id,
        user=pending.user,
        arm=pending.arm,
        ts=pending.ts,
        epoch=by.epoch,
        version=by.version,
        items=[pending.items[index] for index in indices],
        positions=[pending.ranks[index] for index in indices],
        probabilities=[pending.probabilities[index] for index in indices],
        labels=[labelled.label] * len(indices),
        team=by.arm if pending.teams else "",
        read_to=pending.sequence.read_to,
        propensity=pending.propensity,
    )
