"""Candidate lists for data with positives only: the items of a basket among popularity-sampled negatives.

The items of a basket are the positives of its impression. Negatives are drawn from all past sales, so an item's
probability is its popularity so far. All candidates, positives included, were sold a minimum number of times before, so
that a new item is not recognisable as a positive; their order is random, so that the position tells nothing.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class CandidateRules:
    """How visits and their candidates are sampled.

    Attributes:
        history_share: share of the time span, at the beginning, that only extends histories.
        visit_share: share of the later baskets that become impressions.
        max_positives: maximum number of a basket's items among the candidates.
        negatives_per_positive: negatives for each positive.
        min_sales: minimum number of earlier sales of a candidate.
    """

    history_share: float = 0.4
    visit_share: float = 0.42
    max_positives: int = 6
    negatives_per_positive: int = 4
    min_sales: int = 5


RULES = CandidateRules()


@dataclass(frozen=True, slots=True)
class CandidateList:
    """The candidates of one basket: (C,) item codes in the order shown, and (C,) whether each was bought."""

    candidates: Codes
    bought: npt.NDArray[np.bool_]


def sample_candidates(
    items: Codes,
    starts: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    rules: CandidateRules,
    *,
    seed: int,
) -> dict[int, CandidateList]:
    """Choose which baskets become impressions, and their candidates.

    A basket does not become an impression when none of its items was sold often enough before. When there are too few
    items for the negatives, fewer of its own items become candidates.

    Args:
        items: (N,) item codes from 0, basket after basket.
        starts: (K + 1,) basket k is `items[starts[k]:starts[k + 1]]`.
        times: (K,) time of each basket, ascending.
        rules: the sampling rules.
        seed: of the random numbers.

    Returns:
        Basket index → candidates, in ascending order of baskets.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.random(len(times)) < rules.visit_share
    chosen &= times >= times[0] + rules.history_share * (times[-1] - times[0])
    sold = np.zeros(int(items.max()) + 1, dtype=np.int32)
    lists: dict[int, CandidateList] = {}
    for basket in range(len(times)):
        past, bought = items[: starts[basket]], items[starts[basket] : starts[basket + 1]]
        if chosen[basket] and (candidates := _candidates(past, bought, sold, rules, rng)):
            lists[basket] = candidates
        np.add.at(sold, bought, 1)
    return lists


def _candidates(
    past: Codes, bought: Codes, sold: npt.NDArray[np.int32], rules: CandidateRules, rng: np.random.Generator
) -> CandidateList | None:
    distinct = np.unique(bought)
    known = distinct[sold[distinct] >= rules.min_sales]
    others = int(np.count_nonzero(sold >= rules.min_sales)) - len(known)
    count = min(len(known), rules.max_positives, others // rules.negatives_per_positive)
    if not count:
        return None
    positives = rng.choice(known, count, replace=False)
    negatives = _negatives(past, set(distinct.tolist()), sold, rules, rng, count * rules.negatives_per_positive)
    candidates = np.concatenate((positives, np.array(negatives, dtype=np.int32)))
    order = rng.permutation(len(candidates))
    return CandidateList(candidates[order], order < count)


def _negatives(
    past: Codes,
    excluded: set[int],
    sold: npt.NDArray[np.int32],
    rules: CandidateRules,
    rng: np.random.Generator,
    count: int,
) -> list[int]:
    # This ends: the caller has checked that at least `count` other items were sold often enough.
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        drawn = past[rng.integers(len(past), size=2 * count)]
        frequent = drawn[sold[drawn] >= rules.min_sales].tolist()
        chosen.update((item, None) for item in frequent if item not in excluded)
    return list(chosen)[:count]
