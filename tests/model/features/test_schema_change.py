"""A model whose features change: what both know is kept, what is new begins neutral, what is gone goes."""

import itertools
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from model.errors import CheckpointError
from model.example import Example
from model.learner import Learner
from model.network import Network
from model.predict import Predictions
from model.scorer import Scorer
from model.spec import ModelSpec
from state.feature import Feature
from state.feature_layout import FeatureLayout
from state.records import converted
from tests.model.learning import small
from tests.model.worlds import FEATURES, featured

KINDS = ("sam", "din", "mean", "counts")
NUMBERS = tuple(feature for feature in FEATURES if not feature.embeds)
SOME = FEATURES[1::2]


def reading(kind: str, features: tuple[Feature, ...]) -> ModelSpec:
    return msgspec.structs.replace(small(kind), features=features)


def drawn(count: int, seed: int) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [featured(rng, int(rng.integers(0, 14)), int(rng.integers(1, 6))) for _ in range(count)]


def without(examples: list[Example], *names: str) -> list[Example]:
    """Return examples in which these features are missing."""
    layout = FeatureLayout.of(feature for feature in FEATURES if feature.name not in names)
    made = []
    for example in examples:
        assert example.context is not None
        assert example.attributes is not None
        made.append(
            replace(
                example,
                sequence=converted(example.sequence, layout.behavior),
                context=converted(example.context, layout.context),
                attributes=converted(example.attributes, layout.item),
            )
        )
    return made


def learned(kind: str, features: tuple[Feature, ...], steps: int = 12) -> Learner:
    learner = Learner(reading(kind, features), seed=2)
    learner.begin_epoch(1)
    for number in range(steps):
        learner.learn(drawn(16, number))
    return learner


def adapted(learner: Learner, kind: str, features: tuple[Feature, ...]) -> tuple[Learner, dict[str, str]]:
    other = Learner(reading(kind, features), seed=2)
    return other, other.load_state(learner.state())


def assert_close(found: Predictions, expected: Predictions) -> None:
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-6)


def names(features: tuple[Feature, ...]) -> set[str]:
    return {feature.name for feature in features}


PROBE = drawn(20, 99)


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        pytest.param(
            kind, before, id=f"{word}-{kind}", marks=[] if not before or kind == KINDS[0] else pytest.mark.slow
        )
        for word, before in (("none", ()), ("some", SOME), ("numbers", NUMBERS))
        for kind in KINDS
    ],
)
def test_a_feature_that_was_added_changes_no_prediction_until_it_is_learned(
    kind: str, before: tuple[Feature, ...]
) -> None:
    learner = learned(kind, before)
    new, changed = adapted(learner, kind, FEATURES)
    added = names(FEATURES) - names(before)
    assert changed == {"added": ",".join(sorted(added))}
    expected = learner.predict(PROBE)
    assert_close(new.predict(without(PROBE, *added)), expected)
    assert_close(new.predict(PROBE), expected)
    assert (new.steps, new.version) == (learner.steps, learner.version)
    for number in range(25):
        new.learn(drawn(32, 1000 + number))
    with_them, missing = new.predict(PROBE), new.predict(without(PROBE, *added))
    assert np.abs(np.concatenate(with_them) - np.concatenate(missing)).max() > 1e-4, "they are learned from now"


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_was_removed_is_as_if_it_were_missing(kind: str) -> None:
    learner = learned(kind, FEATURES)
    gone = {"price", "picture", "hour", "dwell"}
    new, changed = adapted(learner, kind, tuple(feature for feature in FEATURES if feature.name not in gone))
    assert changed == {"removed": "dwell,hour,picture,price"}
    assert_close(new.predict(PROBE), learner.predict(without(PROBE, *gone)))


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_without_any_features_a_model_goes_on(kind: str) -> None:
    learner = learned(kind, FEATURES)
    new, changed = adapted(learner, kind, ())
    assert changed == {"removed": ",".join(sorted(names(FEATURES)))}
    assert np.isfinite(np.concatenate(new.learn(drawn(8, 5)))).all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("price", Feature("price", "item", "category")),
        ("price", Feature("price", "context", "number")),
        ("picture", Feature("picture", "item", "vector", 4)),
        ("tags", Feature("tags", "item", "categories", 2)),
        ("dwell", Feature("dwell", "item", "number")),
        ("hour", Feature("hour", "user", "category")),
    ],
)
def test_a_feature_that_is_another_one_now_begins_anew(name: str, to: Feature) -> None:
    learner = learned("sam", FEATURES)
    rest = tuple(feature for feature in FEATURES if feature.name != name)
    new, changed = adapted(learner, "sam", (*rest, to))
    assert changed == {"changed": name}
    bare, _ = adapted(learner, "sam", rest)
    probe = without(PROBE, name)
    assert_close(new.predict(probe), bare.predict(probe))
    tensors = new.state()
    for part in ("network/", "adam/exp_avg/", "adam/exp_avg_sq/"):
        for axis, parameter in of(Network(reading("sam", (*rest, to))), tensors, part):
            for place, column in enumerate(axis or ()):
                if column.startswith(f"{name}:"):
                    assert not parameter[..., place].any()


def of(network: Network, tensors: dict[str, Any], part: str) -> list[tuple[list[str] | None, Any]]:
    """Return the names of the columns, and the values, of each weight whose columns features change."""
    return [
        (axes[-1], tensors[part + name])
        for name, axes in network.axes.items()
        if part + name in tensors and len(axes) == 2
    ]


@pytest.mark.long
@pytest.mark.parametrize(("before", "now"), list(itertools.permutations([(), SOME, NUMBERS, FEATURES], 2)))
def test_parameters_averages_and_moments_follow_their_names(
    before: tuple[Feature, ...], now: tuple[Feature, ...]
) -> None:
    learner = learned("din", before)
    new, _ = adapted(learner, "din", now)
    old_axes, new_axes = Network(reading("din", before)).axes, Network(reading("din", now)).axes
    old, found = learner.state(), new.state()
    compared = 0
    for part in ("network/", "served/", "adam/exp_avg/", "adam/exp_avg_sq/"):
        for name in {name.removeprefix(part) for name in found if name.startswith(part)}:
            value, was = found[part + name], old.get(part + name)
            if was is None:
                continue
            if name not in new_axes:
                assert np.array_equal(value, was), part + name
                continue
            axes = [
                [str(each) for each in axis or range(size)]
                for axis, size in zip(new_axes[name], value.shape, strict=True)
            ]
            earlier = [
                {str(each): place for place, each in enumerate(axis or range(size))}
                for axis, size in zip(old_axes[name], was.shape, strict=True)
            ]
            for place in np.ndindex(*value.shape):
                keys = [axis[index] for axis, index in zip(axes, place, strict=True)]
                if all(key in known for key, known in zip(keys, earlier, strict=True)):
                    assert value[place] == was[tuple(known[key] for key, known in zip(keys, earlier, strict=True))]
                    compared += 1
                elif len(place) == 2:
                    assert value[place] == 0
    assert compared > 1000
    assert {name for name in found if name.startswith("adam/step/")} <= set(old)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sam", "counts"])
def test_deltas_of_an_adapted_learner_serve_in_a_fresh_scorer(kind: str) -> None:
    learner, _ = adapted(learned(kind, SOME), kind, FEATURES)
    learner.begin_epoch(2)
    scorer = Scorer(reading(kind, FEATURES), seed=2)
    scorer.apply(learner.base("a"))
    for number in range(3):
        learner.learn(drawn(16, 500 + number))
        scorer.apply(learner.delta("a"))
        for found, expected in zip(scorer.score(PROBE), learner.predict(PROBE), strict=True):
            assert np.array_equal(found, expected)


@pytest.mark.long
def test_an_adapted_learner_is_saved_and_goes_on_exactly() -> None:
    learner, _ = adapted(learned("sam", SOME), "sam", FEATURES)
    other, changed = adapted(learner, "sam", FEATURES)
    assert changed == {}
    for number in range(3):
        batch = drawn(16, 700 + number)
        assert all(np.array_equal(one, two) for one, two in zip(learner.learn(batch), other.learn(batch), strict=True))


@pytest.mark.long
@pytest.mark.parametrize("change", [{"item_dim": 8}, {"hidden": (8,)}, {"length": 9}])
def test_other_features_are_no_excuse_for_another_model(change: dict[str, Any]) -> None:
    state = learned("sam", SOME, steps=1).state()
    with pytest.raises(CheckpointError, match="the network or its sizes were changed"):
        Learner(msgspec.structs.replace(reading("sam", FEATURES), **change), seed=2).load_state(state)
    with pytest.raises(CheckpointError, match="the seed was 2 and is 3"):
        Learner(reading("sam", SOME), seed=3).load_state(state)


def test_a_checkpoint_of_a_version_without_features_says_that_the_network_was_changed() -> None:
    state = learned("sam", (), steps=1).state()
    del state["features"]
    state["fingerprint"] = np.frombuffer(b"0123456789abcdef0123456789abcdef-2", np.uint8)
    with pytest.raises(CheckpointError, match="the network or its sizes were changed"):
        Learner(reading("sam", ()), seed=2).load_state(state)
