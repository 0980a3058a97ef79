"""Candidate lists for positives-only data: a basket's own items among popularity-matched negatives.

The items of an impression's basket are its positives; negatives are drawn from the list of past sale
events, hence each with the probability of its popularity so far. Every candidate, positives too, was sold
often enough before, so that "never seen" is no label; their order is random, so that the position is none
either.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class CandidateRules:
    """How visits and their candidates are chosen.

    Attributes:
        history: share of the time span that only fills histories.
        asked: share of the later baskets that become impressions.
        positives: most items of a basket that become candidates.
        negatives: negatives drawn for each positive.
        sold: how often every candidate was sold before.
    """

    history: float = 0.4
    asked: float = 0.42
    positives: int = 6
    negatives: int = 4
    sold: int = 5


RULES = CandidateRules()


@dataclass(frozen=True, slots=True)
class Question:
    """The candidates of one basket: (C,) item codes in the order shown, and (C,) whether each was bought."""

    candidates: Codes
    bought: npt.NDArray[np.bool_]


def plan_questions(
    items: Codes,
    starts: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    rules: CandidateRules,
    *,
    seed: int,
) -> dict[int, Question]:
    """Choose which baskets are asked about, and with which candidates.

    A basket is not asked about when none of its items was sold often enough; when the past has too few
    other items, fewer of its own are asked.

    Args:
        items: (N,) item codes from 0, basket after basket.
        starts: (K + 1,) basket k is `items[starts[k]:starts[k + 1]]`.
        times: (K,) time of each basket, ascending.
        rules: the protocol.
        seed: makes the choice repeatable.

    Returns:
        Basket index → question, in ascending order of baskets.
    """
    rng = np.random.default_rng(seed)
    asked = rng.random(len(times)) < rules.asked
    asked &= times >= times[0] + rules.history * (times[-1] - times[0])
    sold = np.zeros(int(items.max()) + 1, dtype=np.int32)
    questions: dict[int, Question] = {}
    for basket in range(len(times)):
        past, bought = items[: starts[basket]], items[starts[basket] : starts[basket + 1]]
        if asked[basket] and (question := _question(past, bought, sold, rules, rng)):
            questions[basket] = question
        np.add.at(sold, bought, 1)
    return questions


def _question(
    past: Codes, bought: Codes, sold: npt.NDArray[np.int32], rules: CandidateRules, rng: np.random.Generator
) -> Question | None:
    distinct = np.unique(bought)
    known = distinct[sold[distinct] >= rules.sold]
    others = int(np.count_nonzero(sold >= rules.sold)) - len(known)
    count = min(len(known), rules.positives, others // rules.negatives)
    if not count:
        return None
    positives = rng.choice(known, count, replace=False)
    negatives = _negatives(past, set(distinct.tolist()), sold, rules, rng, count * rules.negatives)
    candidates = np.concatenate((positives, np.array(negatives, dtype=np.int32)))
    order = rng.permutation(len(candidates))
    return Question(candidates[order], order < count)


def _negatives(
    past: Codes,
    excluded: set[int],
    sold: npt.NDArray[np.int32],
    rules: CandidateRules,
    rng: np.random.Generator,
    count: int,
) -> list[int]:
    # Ends: the caller saw that at least `count` other items were sold often enough.
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        drawn = past[rng.integers(len(past), size=2 * count)]
        frequent = drawn[sold[drawn] >= rules.sold].tolist()
        chosen.update((item, None) for item in frequent if item not in excluded)
    return list(chosen)[:count]
