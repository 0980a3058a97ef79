"""NDCG and reciprocal ranks against their definitions, list by list."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.validation.lists import CUTOFF, ndcg_and_reciprocal_rank

List = list[tuple[int, int]]
lists = st.lists(st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=1, max_size=25), min_size=1)


def literal(one: List) -> tuple[float, float]:
    """Return what a list of (label, score) has; sorting keeps the order where scores are equal."""
    labels = [label for label, _ in one]
    if len(set(labels)) == 1:
        return math.nan, math.nan
    ordered = [label for label, _ in sorted(one, key=lambda each: -each[1])]

    def gained(of: list[int]) -> float:
        return sum(label / math.log2(place + 2) for place, label in enumerate(of[:CUTOFF]))

    return gained(ordered) / gained(sorted(labels, reverse=True)), 1 / (1 + ordered.index(1))


@pytest.mark.long
@given(lists)
def test_each_list_has_what_the_definitions_say(drawn: list[List]) -> None:
    flat = [each for one in drawn for each in one]
    numbers = np.repeat(np.arange(len(drawn)), [len(one) for one in drawn])
    labels, scores = (np.array(column, np.float64) for column in zip(*flat, strict=True))
    mixed = np.random.default_rng(0).permutation(len(drawn))[numbers]  # lists need not come in order
    ndcg, ranks = ndcg_and_reciprocal_rank(labels, scores, mixed)
    for number, one in zip(mixed[np.unique(numbers, return_index=True)[1]], drawn, strict=True):
        assert (ndcg[number], ranks[number]) == pytest.approx(literal(one), nan_ok=True)
