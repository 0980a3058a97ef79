"""Features of callers in samples: read by their layout, whatever the trainer's is; damaged ones are refused."""

from typing import Any

import numpy as np
import pytest

from state.behavior import BEHAVIOR
from state.feature import Feature
from state.feature_layout import FeatureLayout
from state.records import KEYS, fields_of
from stream.settings import convert
from stream.trainer.training import Training
from tests.state.support import drawn
from tests.stream.trainer.support import ARMS, sample, training

FEATURES = {
    "price": {"of": "item", "kind": "number"},
    "brand": {"of": "item", "kind": "category"},
    "hour": {"of": "context", "kind": "number"},
}
LAYOUT = convert({"features": FEATURES}).feature_layout
SEQUENCE = drawn(LAYOUT.behavior, 0, 4)


def featured(features: dict[str, Any] = FEATURES) -> Training:
    return Training(convert({"arms": ARMS, "features": features}), device="cpu")


def packed(layout: FeatureLayout, items: int = 3) -> dict[str, Any]:
    """The features of a sample of so many items."""
    return {
        "layout": layout.text,
        "context": drawn(layout.context, 7, 8).tobytes(),
        "attributes": drawn(layout.item, 0, items).tobytes(),
    }


def test_a_sample_brings_the_features_of_the_items_that_are_new() -> None:
    taught = featured()
    taught.take(sample("r", 1, **packed(LAYOUT, 1)), SEQUENCE)
    rest = taught.take(sample("r", 1, 2, 3, **packed(LAYOUT)), SEQUENCE)
    assert rest is not None
    example = rest.features
    assert example.items.tolist() == [2, 3]
    assert example.attributes is not None
    assert example.context is not None
    assert example.attributes.tobytes() == drawn(LAYOUT.item, 1, 3).tobytes()
    assert example.context.tobytes() == drawn(LAYOUT.context, 7, 8).tobytes()
    assert example.sequence is SEQUENCE
    taught.learn([rest])
    assert taught.arms["own"].learner.steps == 1


OTHERS = [
    FeatureLayout.of([]),
    FeatureLayout.of([Feature("price", "item", "number"), Feature("weight", "item", "number")]),
    FeatureLayout.of([Feature("price", "context", "number"), Feature("hour", "item", "category")]),
    FeatureLayout.of([Feature("brand", "behavior", "category"), Feature("tier", "user", "category")]),
]


@pytest.mark.parametrize("theirs", OTHERS)
def test_a_sample_of_another_layout_is_learned_with_what_stands_in_both(theirs: FeatureLayout) -> None:
    taught = featured()
    example = taught.take(sample(**packed(theirs)), SEQUENCE)
    assert example is not None
    found = example.features
    assert found.context is not None
    assert found.attributes is not None
    for records, now, then, start in (
        (found.context, LAYOUT.context, theirs.context, 7),
        (found.attributes, LAYOUT.item, theirs.item, 0),
    ):
        assert records.dtype == now
        given = drawn(then, start, start + len(records))
        for name, kind, size in fields_of(now):
            if (name, kind, size) in fields_of(then):
                assert np.array_equal(records[name], given[name])
            else:
                assert not records[name].any() if kind == KEYS else np.isnan(records[name]).all()
    taught.learn([example])
    assert taught.counts["skipped"] == 0


def test_a_trainer_without_features_learns_samples_that_have_some() -> None:
    taught = training()
    example = taught.take(sample(**packed(LAYOUT)), drawn(BEHAVIOR, 0, 4))
    assert example is not None
    assert (example.features.context, example.features.attributes) == (None, None)
    assert example.features.sequence.dtype == BEHAVIOR
    taught.learn([example])
    assert taught.arms["own"].learner.steps == 1


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "x"},
        {"layout": '[[["a", "<f8", 1]], [], []]'},
        {"layout": f'[[["a", "<f4", {2**40}]], [], []]'},
        {"layout": f'[[], [], [["a", "<f4", {2**62}]]]'},
        {"layout": ""},
        {"context": b""},
        {"context": b"1234567"},
        {"attributes": b""},
        {"attributes": drawn(LAYOUT.item, 0, 2).tobytes()},
    ],
)
def test_damaged_features_are_refused_and_nothing_is_taken_for_learned(change: dict[str, Any]) -> None:
    taught = featured()
    with pytest.raises(ValueError, match=r"bytes are not|no layout of features"):
        taught.take(sample(**(packed(LAYOUT) | change)), SEQUENCE)
    assert taught.take(sample(**packed(LAYOUT)), SEQUENCE) is not None
