"""How well each list is ordered: what recommenders are usually judged by, beside the AUC."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
CUTOFF = 10
"""Places that NDCG looks at."""


def ndcg_and_reciprocal_rank(
    labels: Floats, predictions: Floats, lists: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the (k,) NDCG@10 and (k,) reciprocal ranks of the first positive; NaN for lists of one class.

    Gains are the labels, discounted by 1 / log2(1 + place) (Järvelin and Kekäläinen, TOIS 2002). Where predictions are
    equal, candidates keep their order.

    Args:
        labels: (n,) 0 or 1.
        predictions: (n,) probabilities, or any scores.
        lists: (n,) to which list each belongs: 0 … k−1.
    """
    order = np.lexsort((-predictions.astype(np.float64), lists))
    ordered, of = labels[order].astype(np.float64), lists[order]
    sizes, positives = np.bincount(of), np.bincount(of, weights=ordered).astype(np.int64)
    places = np.arange(len(of)) - (np.cumsum(sizes) - sizes)[of]
    discounts = np.where(np.arange(int(sizes.max(initial=1))) < CUTOFF, 1 / np.log2(np.arange(sizes.max()) + 2), 0.0)
    gained = np.bincount(of, weights=ordered * discounts[places])
    best = np.concatenate([[0.0], np.cumsum(discounts)])[positives]
    first = np.full(len(sizes), np.inf)
    clicked = ordered > 0
    np.minimum.at(first, of[clicked], places[clicked])
    mixed = (positives > 0) & (positives < sizes)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(mixed, gained / best, np.nan), np.where(mixed, 1 / (1 + first), np.nan)
