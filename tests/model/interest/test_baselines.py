"""Popularity learns how often an item is clicked and nothing else; the lot is fair, repeatable, and learns nothing."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.example import Example
from model.interest.baselines import PRIOR
from model.learner import Learner
from model.scorer import Scorer
from model.spec import preset
from state.behavior import BEHAVIOR
from tests.model.learning import batches, examples

NOTHING = np.zeros(0, BEHAVIOR)


def asked(items: list[int], *, ts: int = 1000, category: int = 0, labels: list[int] | None = None) -> Example:
    return Example(
        NOTHING,
        ts,
        np.array(items, np.uint64),
        np.full(len(items), category, np.uint32),
        None if labels is None else np.array(labels, np.float32),
    )


@pytest.mark.long
def test_popularity_learns_the_click_rates_of_items() -> None:
    rates = np.linspace(0.05, 0.6, 12)
    learner, rng = Learner(preset("popularity")), np.random.default_rng(1)
    for _ in range(1500):
        items = rng.permutation(12)[:6] + 1
        clicked = (rng.random(6) < rates[items - 1]).astype(int)
        learner.learn([asked(items.tolist(), labels=clicked.tolist())])
    [learned] = learner.predict([asked(list(range(1, 13)))])
    assert np.corrcoef(learned, rates)[0, 1] > 0.95
    assert abs(learned.mean() - rates.mean()) < 0.08


@pytest.mark.long
def test_a_new_item_is_neither_best_nor_worst_and_as_good_as_its_category() -> None:
    learner = Learner(preset("popularity"))
    [untouched] = learner.predict([asked([7, 8, 9])])
    assert untouched == pytest.approx(PRIOR, abs=1e-6)
    for _ in range(300):
        learner.learn([asked([1, 2], category=5, labels=[1, 0]), asked([3, 4], category=6, labels=[0, 0])])
    [known] = learner.predict([asked([1, 99, 2], category=5)])
    assert known[0] > known[1] > known[2]
    [elsewhere] = learner.predict([asked([98], category=6)])
    assert known[1] > elsewhere[0], "clicks are more frequent in the first category"


def test_neither_looks_at_the_user() -> None:
    for name in ("popularity", "random"):
        learner = Learner(preset(name))
        for batch in batches(5, seed=2):
            learner.learn(batch)
        for example in examples(5, seed=3):
            stranger = dataclasses.replace(example, sequence=NOTHING)
            known, unknown = learner.predict([example, stranger])
            np.testing.assert_allclose(known, unknown, rtol=0, atol=2e-7)
        assert learner.rows.get("item", 0) <= 40, "no row for what is only in a history"


@pytest.mark.long
@given(st.integers(0, 2**48), st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=30, unique=True))
@settings(max_examples=50)
def test_a_lot_is_the_same_whenever_it_is_asked_and_strictly_a_probability(ts: int, items: list[int]) -> None:
    scorer, other = Scorer(preset("random")), Scorer(preset("random"))
    [first] = scorer.score([asked(items, ts=ts)])
    backwards = other.score([asked([1, 2]), asked(items[::-1], ts=ts)])[1]
    # The last bit depends on how memory is aligned; two lots are further apart than that.
    np.testing.assert_allclose(first, backwards[::-1], rtol=0, atol=0.9e-7)
    assert ((first > 0) & (first < 1)).all()


def test_every_order_is_equally_likely() -> None:
    orders = np.zeros((5, 5))
    draws = 4000
    scored = Scorer(preset("random")).score([asked([1, 2, 3, 4, 5], ts=ts) for ts in range(draws)])
    for probabilities in scored:
        orders[np.arange(5), np.argsort(np.argsort(-probabilities))] += 1
    # Chi-square with 16 degrees of freedom: above 39.3 once in a thousand.
    assert ((orders - draws / 5) ** 2 / (draws / 5)).sum() < 39.3
    assert np.concatenate(scored).mean() == pytest.approx(PRIOR, abs=0.005)
    [seeded] = Scorer(preset("random"), seed=1).score([asked([1, 2, 3, 4, 5], ts=0)])
    assert not np.array_equal(seeded, scored[0])


def test_the_lot_learns_nothing_and_yet_goes_on_like_any_arm() -> None:
    learner, scorer = Learner(preset("random")), Scorer(preset("random"))
    learner.begin_epoch(1)
    scorer.apply(learner.base("a"))
    before = learner.predict(examples(4, seed=5))
    for batch in batches(3, seed=4):
        learner.learn(batch)
    assert (learner.steps, learner.changed) == (3, True)
    delta = learner.delta("a")
    assert not delta.tensors
    scorer.apply(delta)
    assert scorer.version == (1, 1)
    for one, other in zip(before, scorer.score(examples(4, seed=5)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-7)
