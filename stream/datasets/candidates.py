"""Candidate lists for data with positives only: the items of a basket among sampled negatives.

The items of a basket are the positives of its impression. How negatives are drawn leaves a trace that a model can
learn, as every candidate generator does; so there are three ways (`Negatives`). All candidates, positives included,
satisfy the same conditions, so that a new or forgotten item is not recognisable as a positive; their order is random,
so that the position tells nothing.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stream.schema.units import DAY_MS

Codes = npt.NDArray[np.int32]
Negatives = Literal["popular", "recent", "category"]
"""`popular`: drawn from all past sales, so that an item's probability is its popularity so far. `recent`: from the
sales of the last `recent_days`. `category`: for each positive from its own category, each item sold in the last
`recent_days` alike, so that popularity tells little."""


@dataclass(frozen=True, slots=True)
class CandidateRules:
    """How visits and their candidates are sampled.

    Attributes:
        history_share: share of the time span, at the beginning, that only extends histories.
        visit_share: share of the later baskets that become impressions.
        max_positives: maximum number of a basket's items among the candidates.
        negatives_per_positive: negatives for each positive.
        min_sales: minimum number of earlier sales of a candidate.
        negatives: how negatives are drawn; `recent` and `category` take only candidates, positives too, that were sold
            in the last `recent_days`.
        recent_days: days.
    """

    history_share: float = 0.4
    visit_share: float = 0.42
    max_positives: int = 6
    negatives_per_positive: int = 4
    min_sales: int = 5
    negatives: Negatives = "popular"
    recent_days: float = 14.0


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
    categories: Codes,
    rules: CandidateRules,
    *,
    seed: int,
) -> dict[int, CandidateList]:
    """Choose which baskets become impressions, and their candidates.

    A basket does not become an impression when none of its items can be a candidate. When there are too few items for
    the negatives, fewer of its own items become candidates.

    Args:
        items: (N,) item codes from 0, basket after basket.
        starts: (K + 1,) basket k is `items[starts[k]:starts[k + 1]]`.
        times: (K,) time of each basket (ms), ascending.
        categories: (M,) category code of each item code, −1 for none.
        rules: the sampling rules.
        seed: of the random numbers.

    Returns:
        Basket index → candidates, in ascending order of baskets.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.random(len(times)) < rules.visit_share
    chosen &= times >= times[0] + rules.history_share * (times[-1] - times[0])
    shelf = _Shelf(items, starts, times, categories, rules)
    lists: dict[int, CandidateList] = {}
    for basket in range(len(times)):
        if chosen[basket] and (candidates := shelf.candidates(basket, rng)):
            lists[basket] = candidates
        shelf.sell(basket)
    return lists


class _Shelf:
    """What was sold before a basket, ever and lately."""

    def __init__(
        self,
        items: Codes,
        starts: npt.NDArray[np.int64],
        times: npt.NDArray[np.int64],
        categories: Codes,
        rules: CandidateRules,
    ) -> None:
        self._items, self._starts, self._times, self._categories = items, starts, times, categories
        self._rules = rules
        count = int(items.max()) + 1
        self._sold = np.zeros(count, np.int32)
        self._lately = np.zeros(count, np.int32)
        self._forgotten = 0
        self._by_category = np.argsort(categories, kind="stable").astype(np.int32)
        self._sorted = categories[self._by_category]

    def sell(self, basket: int) -> None:
        """Count the items of a basket as sold."""
        bought = self._bought(basket)
        np.add.at(self._sold, bought, 1)
        np.add.at(self._lately, bought, 1)

    def candidates(self, basket: int, rng: np.random.Generator) -> CandidateList | None:
        """Return the candidates of a basket that is not sold yet; None when none of its items can be one."""
        self._forget(self._times[basket])
        bought = self._bought(basket)
        own, each = np.unique(bought), self._rules.negatives_per_positive
        allowed = self._sold >= self._rules.min_sales
        if self._rules.negatives != "popular":
            allowed &= self._lately > 0
        known = own[allowed[own]]
        allowed[own] = False
        if self._rules.negatives == "category":
            positives, negatives = self._of_categories(rng.permutation(known), allowed, rng)
            count = len(positives)
        else:
            count = min(len(known), self._rules.max_positives, int(np.count_nonzero(allowed)) // each)
            positives = rng.choice(known, count, replace=False) if count else known[:0]
            negatives = self._of_sales(basket, count * each, allowed, rng)
        if not count:
            return None
        shown = np.concatenate((positives, negatives))
        order = rng.permutation(len(shown))
        return CandidateList(shown[order], order < count)

    def _of_sales(self, basket: int, count: int, allowed: npt.NDArray[np.bool_], rng: np.random.Generator) -> Codes:
        """Draw allowed items, of which there are enough, from the sales before a basket."""
        first = self._starts[self._forgotten] if self._rules.negatives == "recent" else 0
        past = self._items[first : self._starts[basket]]
        chosen: dict[int, None] = {}
        while len(chosen) < count:
            drawn = past[rng.integers(len(past), size=2 * count)]
            chosen.update((item, None) for item in drawn[allowed[drawn]].tolist())
        return np.array(list(chosen)[:count], np.int32)

    def _of_categories(
        self, items: Codes, allowed: npt.NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[Codes, Codes]:
        """Return items as positives, with negatives for each of its own category; leaves out those with too few."""
        positives: list[int] = []
        negatives: list[int] = []
        for item in items.tolist():
            members = self._members(int(self._categories[item]))
            members = members[allowed[members]]
            if len(members) >= self._rules.negatives_per_positive and len(positives) < self._rules.max_positives:
                drawn = rng.choice(members, self._rules.negatives_per_positive, replace=False)
                allowed[drawn] = False
                positives.append(item)
                negatives += drawn.tolist()
        return np.array(positives, np.int32), np.array(negatives, np.int32)

    def _bought(self, basket: int) -> Codes:
        return self._items[self._starts[basket] : self._starts[basket + 1]]

    def _forget(self, now: np.int64) -> None:
        """Take back what was sold lately, and is so no more."""
        since = now - self._rules.recent_days * DAY_MS
        while self._times[self._forgotten] < since:
            np.subtract.at(self._lately, self._bought(self._forgotten), 1)
            self._forgotten += 1

    def _members(self, category: int) -> Codes:
        """Return the items of a category; none of category −1."""
        first, end = np.searchsorted(self._sorted, [max(category, 0), category + 1])
        return self._by_category[first:end]
