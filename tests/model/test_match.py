"""Match features against a plain loop, and matches where there must be none."""

import dataclasses
import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import collate, gap_bucket
from model.example import Example
from model.match import MATCH_FEATURES, NEVER, MatchLogits, count_matches, find_matches, match_features
from state.behavior import BEHAVIOR
from tests.model.worlds import NOW, example


def plain_features(one: Example, candidate: int) -> list[float]:
    features = []
    for field, target in (("item", one.items[candidate]), ("category", one.categories[candidate])):
        newest_first = one.sequence[::-1]
        hits = [age for age, row in enumerate(newest_first) if target and row[field] == target]
        features += [math.log1p(sum(age < window for age in hits)) for window in (50, 200, math.inf)]
        if hits:
            gap = one.ts - newest_first["ts"][hits[:1]]
            features += [math.log1p(hits[0]), gap_bucket(gap)[0] / 8]
        else:
            features += [NEVER, NEVER]
    return [*features, math.log1p(len(one.sequence))]


@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(0, 260), min_size=1, max_size=4))
@settings(max_examples=50)
def test_features_equal_a_plain_loop(seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    examples = [example(rng, length, int(rng.integers(1, 5))) for length in lengths]
    batch = collate(examples, length=1000)
    features = match_features(count_matches(find_matches(batch), batch), batch)
    assert features.shape[-1] == MATCH_FEATURES
    for row, one in enumerate(examples):
        for candidate in range(len(one.items)):
            expected = np.array(plain_features(one, candidate), np.float32)
            assert features[row, candidate].tolist() == expected.tolist(), "to the bit"


def test_no_category_matches_no_category() -> None:
    sequence = np.zeros(3, BEHAVIOR)
    sequence["item"] = [1, 2, 3]
    batch = collate([Example(sequence, NOW, np.array([9], np.uint64), np.array([0], np.uint32))], length=5)
    assert not find_matches(batch).category.any()


def test_a_padded_position_matches_nothing_whatever_it_holds() -> None:
    rng = np.random.default_rng(0)
    batch = collate([example(rng, 2, 1), example(rng, 6, 3)], length=9)
    expected = find_matches(batch)
    filled = dataclasses.replace(
        batch,
        history_items=batch.history_items.where(batch.mask, batch.target_items[:, :1]),
        history_categories=batch.history_categories.where(batch.mask, batch.target_categories[:, :1]),
    )
    found = find_matches(filled)
    assert torch.equal(found.item, expected.item)
    assert torch.equal(found.category, expected.category)


def test_logits_weigh_item_and_category_apart() -> None:
    rng = np.random.default_rng(1)
    matches = find_matches(collate([example(rng, 30, 4)], length=50))
    logits = MatchLogits()
    with torch.no_grad():
        logits.item.fill_(2.0)
        logits.category.fill_(-0.5)
    assert torch.equal(logits(matches), 2.0 * matches.item - 0.5 * matches.category)
