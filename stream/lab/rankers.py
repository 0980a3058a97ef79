"""Ways to rank the candidates of a visit: learned models, popularity, random, and the oracle."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from model.example import Example
from model.learner import Learner
from model.predict import Predictions
from model.scorer import Scorer
from model.spec import ModelSpec
from stream.lab.script import Script
from stream.simulation.hashing import Floats


class Ranker(Protocol):
    """Scores candidates, learns from labelled ones, and publishes what it has learned."""

    def score(self, examples: Sequence[Example], visits: Sequence[int]) -> Predictions | list[Floats]:
        """Return, for each visit, the (C,) click probabilities of its candidates (or scores, for some baselines)."""

    def learn(self, examples: Sequence[Example]) -> None:
        """Learn from labelled items."""

    def publish(self) -> None:
        """Make everything learned so far effective in `score`."""


class ModelRanker:
    """A model as a running system has it: a learner, and a scorer that follows it by updates."""

    def __init__(self, spec: ModelSpec, *, seed: int) -> None:
        self._spec, self._seed = spec, seed
        self._learner = Learner(spec, seed=seed)
        self._scorer = Scorer(spec, seed=seed)

    def score(self, examples: Sequence[Example], visits: Sequence[int]) -> Predictions:  # noqa: ARG002
        """Return the scorer's probabilities."""
        return self._scorer.score(examples)

    def learn(self, examples: Sequence[Example]) -> None:
        """Take one training step."""
        self._learner.learn(examples)

    def publish(self) -> None:
        """Update the scorer with a delta."""
        if self._learner.changed:
            self._scorer.apply(self._learner.delta("lab"))

    def fork(self) -> "ModelRanker":
        """Return an independent copy, with everything that was learned so far published."""
        fork = ModelRanker(self._spec, seed=self._seed)
        self.publish()
        fork._learner.load_state(self._learner.state())
        fork._scorer.apply(self._learner.base("lab"))
        return fork


class PopularityRanker:
    """Ranks by each item's smoothed click rate, which every label updates at once.

    rate = (clicks + prior · mean) / (shown + prior), where mean is the click rate of all items so far. So an item
    without labels, such as a new one, has the mean rate.
    """

    def __init__(self, *, prior: float = 20.0) -> None:
        self._prior = prior
        self._counts: dict[int, tuple[int, int]] = {}
        self._shown = self._clicks = 0

    def score(self, examples: Sequence[Example], visits: Sequence[int]) -> list[Floats]:  # noqa: ARG002
        """Return the smoothed click rates of the candidates."""
        mean = (self._clicks + 1) / (self._shown + 2)
        rates = []
        for example in examples:
            counts = np.array([self._counts.get(key, (0, 0)) for key in example.items.tolist()], dtype=np.float64)
            rates.append((counts[:, 1] + self._prior * mean) / (counts[:, 0] + self._prior))
        return rates

    def learn(self, examples: Sequence[Example]) -> None:
        """Count items and clicks."""
        for example in examples:
            labels = [] if example.labels is None else example.labels.astype(int).tolist()
            for key, label in zip(example.items.tolist(), labels, strict=True):
                shown, clicks = self._counts.get(key, (0, 0))
                self._counts[key] = shown + 1, clicks + label
                self._shown += 1
                self._clicks += label

    def publish(self) -> None:
        """Do nothing: counts are effective at once."""


class FixedScores:
    """Ranks by scores that do not depend on what is learned: the true probabilities (oracle), or random numbers."""

    def __init__(self, scores: Floats) -> None:
        self._scores = scores

    @classmethod
    def oracle(cls, script: Script) -> "FixedScores":
        """Return the ranker by true click probabilities."""
        return cls(script.truth)

    @classmethod
    def random(cls, script: Script) -> "FixedScores":
        """Return the ranker that shows the candidates in a uniformly random order."""
        return cls(script.permutations.argsort(axis=1) / script.permutations.shape[1])

    def score(self, examples: Sequence[Example], visits: Sequence[int]) -> list[Floats]:  # noqa: ARG002
        """Return the scores of these visits."""
        return list(self._scores[list(visits)])

    def learn(self, examples: Sequence[Example]) -> None:
        """Do nothing: the scores are fixed."""

    def publish(self) -> None:
        """Do nothing."""
