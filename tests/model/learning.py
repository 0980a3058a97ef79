"""A small world to learn in: examples whose labels follow from the candidates."""

import numpy as np

from model.example import Example
from model.learner import Learner
from model.scorer import Scorer
from model.spec import HALF_LIVES_S, ModelSpec, count_numbers, preset
from state.behavior import BEHAVIOR

KINDS = ("sam", "din", "mean", "counts", "popularity", "random")


def small(kind: str) -> ModelSpec:
    """Return the preset over ten behaviours only, where it reads any."""
    return preset(f"{kind}-10" if preset(kind).length else kind)


def examples(count: int, *, seed: int, catalogue: int = 40) -> list[Example]:
    """Return requests of 0 to 12 behaviours and 1 to 5 candidates, of which low item keys are clicked."""
    rng, numbers = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    width = count_numbers(HALF_LIVES_S)
    made = []
    for _ in range(count):
        sequence = np.zeros(rng.integers(0, 13), BEHAVIOR)
        sequence["item"] = rng.integers(1, catalogue, len(sequence))
        sequence["category"] = sequence["item"] % 5
        sequence["action"] = 3
        sequence["ts"] = np.sort(rng.integers(0, 10**9, len(sequence)))
        items = rng.integers(1, catalogue, rng.integers(1, 6)).astype(np.uint64)
        clicked = rng.random(len(items)) < np.where(items < catalogue / 2, 0.9, 0.1)
        made.append(
            Example(
                sequence,
                10**9,
                items,
                (items % 5).astype(np.uint32),
                clicked.astype(np.float32),
                numbers.normal(0.0, 3.0, (len(items), width)).astype(np.float32),
            )
        )
    return made


def batches(count: int, *, seed: int) -> list[list[Example]]:
    """Return so many batches of eight examples."""
    return [examples(8, seed=seed * 1000 + number) for number in range(count)]


def learner_and_scorer(kind: str = "din") -> tuple[Learner, Scorer]:
    """Return a learner at version 1.1 and the scorer that has followed it."""
    learner, scorer = Learner(small(kind)), Scorer(small(kind))
    learner.begin_epoch(1)
    scorer.apply(learner.base("a"))
    learner.learn(examples(8, seed=8))
    scorer.apply(learner.delta("a"))
    return learner, scorer
