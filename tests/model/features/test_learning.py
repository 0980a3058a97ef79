"""Features of callers are learned from: worlds that nothing else explains; and served as they were learned."""

import dataclasses
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import pytest

from model.example import Example
from model.kernels import native
from model.learner import Learner
from model.metrics import auc
from model.scorer import Scorer
from model.serialization.update import Update
from model.spec import ModelSpec, OptimSpec
from state.behavior import BEHAVIOR, category_key
from state.feature import Feature
from state.feature_layout import FeatureLayout
from state.records import converted, missing
from tests.model.learning import small
from tests.model.test_trial import HUGE, refusal
from tests.model.worlds import FEATURES, NOW, featured

BRAND, TIER, PRICE = (
    Feature("brand", "item", "category"),
    Feature("tier", "user", "category"),
    Feature("price", "item", "number"),
)
READ = (BRAND, TIER, PRICE)
LAYOUT = FeatureLayout.of(READ)
FEW = np.array([category_key(f"brand-{number}") for number in range(6)], np.uint32)
MANY = np.array([category_key(f"brand-{number}") for number in range(3000)], np.uint32)
GOLD, BASIC = category_key("gold"), category_key("basic")


def request(rng: np.random.Generator, brands: np.ndarray, clicked: Callable[..., np.ndarray]) -> Example:
    """Items that were never seen before, of no category: only features can tell what is clicked."""
    sequence = converted(np.zeros(rng.integers(1, 10), BEHAVIOR), LAYOUT.behavior).copy()
    sequence["item"] = rng.integers(1, 2**63, len(sequence))
    sequence["ts"] = NOW - np.sort(rng.integers(0, 10**9, len(sequence)))[::-1]
    sequence["brand"] = rng.choice(brands, (len(sequence), 1))
    context, offered = missing(1, LAYOUT.context), missing(6, LAYOUT.item)
    context["tier"] = GOLD if rng.random() < 0.5 else BASIC
    offered["brand"] = rng.choice(brands, (6, 1))
    bought = rng.random(6) < 0.5
    if len(brands) > len(FEW):
        offered["brand"][bought, 0] = rng.choice(sequence["brand"].ravel(), bought.sum())
    offered["price"] = rng.lognormal(3.0, 1.5, (6, 1))
    chance = np.where(clicked(context[0], offered, sequence), 0.9, 0.1)
    return Example(
        sequence,
        NOW,
        rng.integers(1, 2**63, 6).astype(np.uint64),
        np.zeros(6, np.uint32),
        (rng.random(6) < chance).astype(np.float32),
        context=context,
        attributes=offered,
    )


def by_tier(context: np.void, offered: np.ndarray, _: np.ndarray) -> np.ndarray:
    good: np.ndarray = np.isin(offered["brand"][:, 0], FEW[:3]) == (context["tier"] == GOLD)
    return good


def by_price(_: np.void, offered: np.ndarray, __: np.ndarray) -> np.ndarray:
    good: np.ndarray = offered["price"][:, 0] < 20
    return good


def by_history(_: np.void, offered: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    good: np.ndarray = np.isin(offered["brand"][:, 0], sequence["brand"].ravel())
    return good


WORLDS = {
    "brand and tier": (FEW, by_tier),
    "price": (FEW, by_price),
    "same brand as before": (MANY, by_history),
}


def reading(kind: str, features: tuple[Feature, ...]) -> ModelSpec:
    return msgspec.structs.replace(small(kind), features=features, statistics=())


def judged(spec: ModelSpec, world: str, steps: int) -> float:
    """Return the AUC of predictions made before learning, in the last third."""
    rng, learner = np.random.default_rng(3), Learner(spec)
    labels, predicted = [], []
    for step in range(steps):
        batch = [request(rng, *WORLDS[world]) for _ in range(32)]
        found = learner.learn(batch)
        if step >= 2 * steps // 3:
            predicted += found
            labels += [example.labels for example in batch if example.labels is not None]
    return auc(np.concatenate(labels), np.concatenate(predicted))


@pytest.mark.long
@pytest.mark.parametrize(
    ("world", "kind"),
    [
        ("same brand as before", "sam"),
        *(pytest.param(world, "counts", marks=pytest.mark.slow) for world in WORLDS),
        *(pytest.param(world, "sam", marks=pytest.mark.slow) for world in ("brand and tier", "price")),
        *(pytest.param(world, "din", marks=pytest.mark.slow) for world in WORLDS),
    ],
)
def test_what_only_features_tell_is_learned(kind: str, world: str) -> None:
    # Neither brand nor tier tells anything alone, so no step goes the right way at first.
    steps = 270 if world == "brand and tier" else 120
    assert judged(reading(kind, READ), world, steps) > 0.8, "0.9 is all that can be known"


@pytest.mark.long
def test_without_features_nothing_is_learned_there() -> None:
    for world in WORLDS:
        assert 0.4 < judged(reading("counts", ()), world, steps=60) < 0.6


def drawn(count: int, seed: int) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [featured(rng, int(rng.integers(0, 14)), int(rng.integers(1, 6))) for _ in range(count)]


def learned(kind: str) -> Learner:
    learner = Learner(msgspec.structs.replace(small(kind), features=FEATURES))
    learner.begin_epoch(1)
    for number in range(10):
        learner.learn(drawn(16, number))
    return learner


@pytest.mark.parametrize("kind", ["sam", "din", "mean", "counts"])
def test_requests_with_features_together_equal_each_alone_to_the_bit(kind: str) -> None:
    learner, probe = learned(kind), drawn(20, 99)
    together = learner.predict(probe)
    for example, expected in zip(probe, together, strict=True):
        assert np.array_equal(learner.predict([example])[0], expected)
        for place in range(len(example.items)):
            here = slice(place, place + 1)
            alone = dataclasses.replace(
                example,
                items=example.items[here],
                categories=example.categories[here],
                labels=None,
                numbers=None if example.numbers is None else example.numbers[here],
                attributes=None if example.attributes is None else example.attributes[here],
            )
            assert learner.predict([alone])[0][0] == expected[place]


def test_what_is_learned_of_texts_is_forgotten_and_followed_too() -> None:
    spec = msgspec.structs.replace(small("din"), features=FEATURES)
    learner, scorer, probe = Learner(spec, OptimSpec(expire_after_s=1.0)), Scorer(spec), drawn(10, 99)
    learner.begin_epoch(1)
    learner.learn(drawn(16, 0))
    scorer.apply(learner.base("a"))
    before = learner.rows["feature"]
    learner.learn([dataclasses.replace(each, ts=NOW + 2000) for each in drawn(1, 1)])
    update = learner.delta("a")
    scorer.apply(update)
    assert learner.rows["feature"] < before
    assert 0 < len(update.tensors["feature/gone"]) <= learner.key_counts["feature"]["expired"]
    for found, expected in zip(scorer.score(probe), learner.predict(probe), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sam", "din", "mean", "counts"])
@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_any_feature_alone_is_read_learned_and_served(kind: str, feature: Feature) -> None:
    spec = msgspec.structs.replace(small(kind), features=(feature,))
    learner, scorer, probe = Learner(spec), Scorer(spec), drawn(10, 99)
    learner.begin_epoch(1)
    for number in range(3):
        learner.learn(drawn(16, number))
    scorer.apply(learner.base("a"))
    for found, expected in zip(scorer.score(probe), learner.predict(probe), strict=True):
        assert np.isfinite(found).all()
        assert np.array_equal(found, expected)


@pytest.mark.long
@pytest.mark.skipif(native.library() is None, reason="the kernel is not built, or this is no CPU with AVX2")
@pytest.mark.parametrize("kind", ["sam", "din", "mean", "counts"])
def test_the_compiled_kernel_equals_torch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, probe = learned(kind), drawn(30, 99)
    compiled = np.concatenate(learner.predict(probe))
    with monkeypatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        in_torch = np.concatenate(learner.predict(probe))
    np.testing.assert_allclose(compiled, in_torch, atol=2e-5)
    assert np.ptp(compiled) > 1e-3


def huge(update: Update) -> Iterator[tuple[str, Update]]:
    """Yield the update with huge numbers in what features add to a model."""
    for name, tensor in update.tensors.items():
        if "feature" not in name or tensor.dtype != np.float32 or not tensor.size:
            continue
        for value in HUGE:
            for part in (np.s_[:], np.s_[:1], np.s_[-1:]):
                changed = tensor.copy()
                changed.reshape(-1)[part] = value
                yield f"{name} {part} {value:g}", dataclasses.replace(update, tensors={**update.tensors, name: changed})


@pytest.mark.parametrize(
    "kind", ["sam", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("din", "mean", "counts"))]
)
def test_huge_parameters_of_features_are_refused_or_give_finite_answers(kind: str) -> None:
    learner = learned(kind)
    update, probe, tried = learner.base("a"), drawn(10, 99), 0
    for what, bad in huge(update):
        scorer = Scorer(msgspec.structs.replace(small(kind), features=FEATURES))
        tried += 1
        if (reason := refusal(scorer, bad)) is not None:
            assert reason == "non-finite", what
            continue
        scorer.apply(bad)
        assert all(np.isfinite(each).all() for each in scorer.score(probe)), what
    assert tried >= len(HUGE)


def test_an_update_of_other_features_is_refused_and_says_what_must_be_the_same() -> None:
    scorer = Scorer(msgspec.structs.replace(small("sam"), features=FEATURES[1:]))
    with pytest.raises(Exception, match="need the same preset, model and features of this arm"):
        scorer.apply(learned("sam").base("a"))
