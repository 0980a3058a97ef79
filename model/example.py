"""The input of a model: one user's sequence, a time, and candidates; with labels for training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from state.behavior import BehaviorArray

LATE_CLICK = 2.0
"""Label of a click on what was learned as unclicked before: its step takes that back and learns the click."""


@dataclass(frozen=True, slots=True)
class Example:
    """One request to score, or to learn from when `labels` is given.

    Attributes:
        sequence: (L,) behaviours of dtype `BEHAVIOR`, perhaps with features after it, oldest first, as they stood
            at `ts`; L may be 0.
        ts: moment of the request, milliseconds since the Unix epoch.
        items: (C,) uint64 item keys of the candidates.
        categories: (C,) uint32 category keys of the candidates, 0 for none.
        numbers: (C, n) float32, what is known of the candidates beside their keys, as it was at `ts`; None for nothing.
        positions: (C,) places at which the candidates were shown, 0 the first; None when only scored.
        context: (1,) record of the request's features (`state.feature_layout`); None for none.
        attributes: (C,) records of the candidates' features; None for none.
        labels: (C,) float32, 1 clicked and 0 not, or `LATE_CLICK`; None when only scored.
    """

    sequence: BehaviorArray
    ts: int
    items: npt.NDArray[np.uint64]
    categories: npt.NDArray[np.uint32]
    labels: npt.NDArray[np.float32] | None = None
    numbers: npt.NDArray[np.float32] | None = None
    positions: npt.NDArray[np.uint16] | None = None
    context: npt.NDArray[np.void] | None = None
    attributes: npt.NDArray[np.void] | None = None


def joined(examples: Sequence[Example]) -> Example:
    """Return labelled examples of one request as one, with all their candidates in order.

    Its loss and gradients are the sums of theirs, and the sequence is read once for all of them.

    Args:
        examples: at least one, alike in what they have beside candidates; each of `labels`, `numbers`, `positions` and
            `attributes` is there in all or in none.
    """
    first = examples[0]
    if len(examples) == 1:
        return first

    def of_all(name: str) -> Any:
        parts = [getattr(each, name) for each in examples]
        return None if parts[0] is None else np.concatenate(parts)

    return replace(
        first,
        items=of_all("items"),
        categories=of_all("categories"),
        labels=of_all("labels"),
        numbers=of_all("numbers"),
        positions=of_all("positions"),
        attributes=of_all("attributes"),
    )
