"""Ways to rank the candidates of a visit: learned models, and baselines that know less or everything."""

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
        """Return the (C,) click probabilities (or, where they are none, scores) of the candidates of each visit."""

    def learn(self, examples: Sequence[Example]) -> None:
        """Take labelled items."""

    def publish(self) -> None:
        """Score by what was learned up to now."""


class Learned:
    """A model as it runs in a system: a learner, and a scorer that knows what the last update said."""

    def __init__(self, spec: ModelSpec, *, seed: int) -> None:
        self._spec, self._seed = spec, seed
        self._learner = Learner(spec, seed=seed)
        self._scorer = Scorer(spec, seed=seed)

    def score(self, examples: Sequence[Example], visits: Sequence[int]) -> Predictions:  # noqa: ARG002
        """Return what the scorer says."""
        return self._scorer.score(examples)

    def learn(self, examples: Sequence[Example]) -> None:
        """Take one step."""
        self._learner.learn(examples)

    def publish(self) -> None:
        """Bring the scorer up to date with a delta."""
        if self._learner.changed:
            self._scorer.apply(self._learner.delta("lab"))

    def twin(self) -> "Learned":
        """Return a copy that goes on by itself; it knows what was learned up to now."""
        twin = Learned(self._spec, seed=self._seed)
        self.publish()
        twin._learner.load_state(self._learner.state())
        twin._scorer.apply(self._learner.base("lab"))
        return twin


class Popularity:
    """Smoothed click rate of each item, from the labels seen so far; at once up to date.

    An item without labels, such as one just born, is taken for an average one: rate = (clicks + prior · mean) /
    (shown + prior), with the mean click rate of everything seen so far.
    """

    def __init__(self, *, prior: float = 20.0) -> None:
        self._prior = prior
        self._seen: dict[int, tuple[int, int]] = {}
        self._shown = self._clicks = 0

    def score(self, examples: Sequence[Example], visits: Sequence[int]) -> list[Floats]:  # noqa: ARG002
        """Return the click rates of the candidates."""
        mean = (self._clicks + 1) / (self._shown + 2)
        rates = []
        for example in examples:
            counts = np.array([self._seen.get(key, (0, 0)) for key in example.items.tolist()], dtype=np.float64)
            rates.append((counts[:, 1] + self._prior * mean) / (counts[:, 0] + self._prior))
        return rates

    def learn(self, examples: Sequence[Example]) -> None:
        """Count."""
        for example in examples:
            labels = [] if example.labels is None else example.labels.astype(int).tolist()
            for key, label in zip(example.items.tolist(), labels, strict=True):
                shown, clicks = self._seen.get(key, (0, 0))
                self._seen[key] = shown + 1, clicks + label
                self._shown += 1
                self._clicks += label

    def publish(self) -> None:
        """Do nothing: scores are always from the newest counts."""


class Told:
    """Ranks by scores that the script knows: the truth (the oracle), or lots (random)."""

    def __init__(self, scores: Floats) -> None:
        self._scores = scores

    @classmethod
    def oracle(cls, script: Script) -> "Told":
        """Return the ranker that knows the true probabilities."""
        return cls(script.truth)

    @classmethod
    def random(cls, script: Script) -> "Told":
        """Return the ranker that shows candidates by lot, each as likely as the other."""
        return cls(script.lots.argsort(axis=1) / script.lots.shape[1])

    def score(self, examples: Sequence[Example], visits: Sequence[int]) -> list[Floats]:  # noqa: ARG002
        """Return what is known of these visits."""
        return list(self._scores[list(visits)])

    def learn(self, examples: Sequence[Example]) -> None:
        """Do nothing: there is nothing to learn."""

    def publish(self) -> None:
        """Do nothing."""
