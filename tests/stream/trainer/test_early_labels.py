"""Early labels in training: each item is learned as unclicked and as clicked at most once, in any order."""

from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from model.example import LATE_CLICK
from stream.schema.events import Sample
from stream.settings import convert
from stream.trainer.predictions import read_predictions
from stream.trainer.training import Training
from tests.stream.trainer.support import ARMS, SEQUENCE, labels, sample, training


def early_training() -> Training:
    return Training(convert({"arms": ARMS, "worker": {"labels": "early"}}), device="cpu")


def one(label: int, *items: int) -> Sample:
    return sample("r", *(items or (1,)), labels=np.full(len(items) or 1, label, "<u1").tobytes())


@pytest.mark.long
@pytest.mark.parametrize("restart", range(-1, 4))
@pytest.mark.parametrize("order", sorted(set(permutations([0, 0, 1, 1]))))
def test_early_labels_come_to_one_click_whatever_their_order_and_repeats(order: tuple[int, ...], restart: int) -> None:
    taught, learned = early_training(), list[float]()
    for step, label in enumerate(order):
        if step == restart:
            before, taught = taught, early_training()
            taught.seen.restore(before.seen.to_array())
            taught.counts.update(before.counts)
        example = taught.take(one(label), SEQUENCE)
        if example is not None:
            learned += labels(example.features)
            assert len(example.ids) == (1 if learned[-1] != 1 else 2)
    assert learned == ([0.0, LATE_CLICK] if order[0] == 0 else [1.0])
    assert taught.counts == {"samples": 1, "repeated": 4 - len(learned)} | (
        {"late_clicks": 1} if len(learned) > 1 else {}
    )


def test_of_early_labels_each_item_of_a_sample_is_told_apart() -> None:
    taught = early_training()
    taught.take(one(0, 1, 2, 3), SEQUENCE)
    taught.take(one(1, 2), SEQUENCE)
    example = taught.take(one(1, 1, 2, 4, 4), SEQUENCE)
    assert example is not None
    assert (example.features.items.tolist(), labels(example.features)) == ([1, 4], [LATE_CLICK, 1.0])
    example = taught.take(one(0, 1, 5, 4, 5), SEQUENCE)
    assert example is not None
    assert (example.features.items.tolist(), labels(example.features)) == ([5], [0.0])
    assert taught.counts == {"samples": 5, "late_clicks": 2}


def test_without_early_labels_a_click_on_what_was_seen_is_a_repeat() -> None:
    taught = training()
    taught.take(one(0), SEQUENCE)
    assert taught.take(one(1), SEQUENCE) is None


@pytest.mark.parametrize("before", [(), (0,)])
def test_an_early_label_that_could_not_be_learned_may_come_again(before: tuple[int, ...]) -> None:
    taught = early_training()
    for label in before:
        assert taught.take(one(label), SEQUENCE) is not None
    known = Counter(taught.seen.to_array()[:, 0].tolist())
    example = taught.take(one(1), SEQUENCE)
    assert example is not None
    taught.seen.forget(example.ids)
    assert Counter(taught.seen.to_array()[:, 0].tolist()) == known
    again = taught.take(one(1), SEQUENCE)
    assert again is not None
    assert labels(again.features) == labels(example.features)


def test_a_late_click_is_judged_as_no_further_sample_and_not_logged(tmp_path: Path) -> None:
    taught = early_training()
    trainer = taught.arms["own"]
    trainer.open_log(tmp_path)
    for each in (one(0, 1, 2, 3), one(1, 2)):
        example = taught.take(each, SEQUENCE)
        assert example is not None
        taught.learn([example])
    trainer.flush_log()
    assert read_predictions(tmp_path / "own.predictions")["label"].tolist() == [0, 0, 0]
    total = trainer.metrics.total()
    assert (trainer.predictions, total.samples, total.positives) == (3, 3, 1)
