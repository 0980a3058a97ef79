"""Why a sample carries its numbers: looked up when the label is known, they tell it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from model.example import Example
from model.interest.options import Counts
from model.learner import Learner
from model.metrics import auc
from model.spec import ModelSpec
from model.statistics.item_statistics import ItemStatistics
from state.behavior import behaviors

LIVES = (60.0,)
NOW = 1_700_000_000_000
ITEMS = 3000
NOBODY = behaviors([])


def validated(fed: Callable[[ItemStatistics, Example], Example]) -> float:
    """Return the AUC of predictions before learning, where nothing but chance decides what is clicked.

    Args:
        fed: makes an example of a request, of which it has the numbers as they were served, when its labels are known.
    """
    rng = np.random.default_rng(5)
    learner, statistics = Learner(ModelSpec(interest=Counts(), statistics=LIVES)), ItemStatistics(LIVES)
    labels, predictions = [], []
    for visit in range(600):
        ts = NOW + 1000 * visit
        items = rng.choice(np.arange(1, ITEMS, dtype=np.uint64), 8, replace=False)
        categories = np.zeros(len(items), np.uint32)
        served = Example(NOBODY, ts, items, categories, numbers=statistics.features(NOBODY, ts, items, categories))
        clicked = rng.random(len(items)) < 0.25
        # A front end writes the click, and the behaviour that it is.
        statistics.fold(behaviors([(int(item), 0, 1, ts + 500) for item in items[clicked]]))
        example = replace(fed(statistics, served), labels=clicked.astype(np.float32))
        [predicted] = learner.learn([example])
        labels.append(clicked.astype(np.float64))
        predictions.append(predicted.astype(np.float64))
    half = len(labels) // 2
    return auc(np.concatenate(labels[half:]), np.concatenate(predictions[half:]))


def looked_up(statistics: ItemStatistics, served: Example) -> Example:
    """Return what a trainer would learn from that looks numbers up itself, even as of the time of the request."""
    asked = served.sequence, served.ts, served.items, served.categories
    return replace(served, numbers=statistics.features(*asked))


@pytest.mark.slow
def test_numbers_that_are_looked_up_with_the_label_tell_it_and_those_that_were_served_do_not() -> None:
    assert validated(looked_up) > 0.95
    assert validated(lambda _, served: served) < 0.55
