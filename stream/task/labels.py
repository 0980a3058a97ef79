"""Turns labels of the joiner into records: samples to learn from, and outcomes to count."""

from collections.abc import Iterable, Iterator

import numpy as np

from state.behavior import BehaviorArray, item_key
from stream.schema.events import Outcome, RequestKey, Sample, Team
from stream.task.joiner import LabelledItems


def merge_labels(labelled_items: Iterable[LabelledItems]) -> list[LabelledItems]:
    """Return the labelled items; those of one request with the same label become one."""
    merged: dict[tuple[RequestKey, int], LabelledItems] = {}
    for labelled in labelled_items:
        key = (labelled.pending.request, labelled.label)
        if known := merged.get(key):
            clicked_at = max(known.clicked_at, labelled.clicked_at)
            labelled = LabelledItems(known.pending, known.indices + labelled.indices, known.label, clicked_at)
        merged[key] = labelled
    return list(merged.values())


def samples_and_outcomes(labelled: LabelledItems, sequence: BehaviorArray) -> Iterator[tuple[Sample, Outcome]]:
    """Yield a sample and its outcome; for an interleaved request, those of each team that placed some of it.

    Args:
        labelled: items of one request that got the same label.
        sequence: the user's behaviours as they stood when the request was scored.
    """
    pending = labelled.pending
    if not pending.teams:
        yield _pair(labelled, labelled.indices, Team(pending.arm, pending.epoch, pending.version, []), sequence)
    for team in pending.teams:
        members = set(team.members)
        if indices := [index for index in labelled.indices if index in members]:
            yield _pair(labelled, indices, team, sequence)


def _pair(labelled: LabelledItems, indices: list[int], by: Team, sequence: BehaviorArray) -> tuple[Sample, Outcome]:
    pending = labelled.pending
    items = [pending.items[index] for index in indices]
    ranks = [pending.ranks[index] for index in indices]
    probabilities = [pending.probabilities[index] for index in indices]
    width = len(pending.numbers) // len(pending.items)
    sample = Sample(
        request_id=pending.request_id,
        user=pending.user,
        arm=by.arm,
        ts=pending.ts,
        epoch=by.epoch,
        version=by.version,
        clicked_at=labelled.clicked_at,
        sequence=sequence.tobytes(),
        items=np.array([item_key(item) for item in items], dtype="<u8").tobytes(),
        categories=np.array([pending.categories[index] for index in indices], dtype="<u4").tobytes(),
        positions=np.array(ranks, dtype="<u2").tobytes(),
        probabilities=np.array(probabilities, dtype="<f4").tobytes(),
        labels=np.full(len(indices), labelled.label, dtype="<u1").tobytes(),
        numbers=b"".join(pending.numbers[index * width : (index + 1) * width] for index in indices),
    )
    outcome = Outcome(
        request_id=pending.request_id,
        user=pending.user,
        arm=pending.arm,
        ts=pending.ts,
        epoch=by.epoch,
        version=by.version,
        items=items,
        positions=ranks,
        probabilities=probabilities,
        labels=[labelled.label] * len(indices),
        team=by.arm if pending.teams else "",
    )
    return sample, outcome
