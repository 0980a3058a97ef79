"""What an engineer would pick instead: other rankers on the same samples and the same numbers, in one pass."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch, collate
from model.example import Example
from model.interest.baselines import PRIOR
from model.match import count_matches, find_matches, match_features
from model.predict import Predictions
from model.statistics.decayed_counts import DecayedCounts

_DAY_S = 86_400.0

Matrix = npt.NDArray[np.float32]


class OnlineRanker(Protocol):
    """Goes through a stream of samples once."""

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""


class DecayedPopularity:
    """Clicks over impressions of an item, each counted half after a fortnight: knows nothing of the user."""

    def __init__(self) -> None:
        self._counts = DecayedCounts([14 * _DAY_S], columns=2)

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""
        predicted = []
        for example in examples:
            shown, clicked = self._counts.at(example.items, example.ts)[:, :, 0].T
            predicted.append(((clicked + PRIOR) / (shown + 1.0)).astype(np.float32))
        for example in examples:
            times = np.full(len(example.items), example.ts)
            self._counts.add(example.items, times, 0)
            self._counts.add(example.items, times, 1, _labels(example).astype(np.float64))
        return predicted


class BoostedTrees:
    """LightGBM on the numbers of the candidates and of their matches, refitted to all of the past now and then.

    Args:
        samples: how many there will be.
        refits: how often it is fitted.
    """

    def __init__(self, samples: int, refits: int = 20) -> None:
        import lightgbm

        self._lightgbm = lightgbm
        self._every = max(1, samples // refits)
        self._features: list[Matrix] = []
        self._labels: list[npt.NDArray[np.float32]] = []
        self._waiting = 0
        self._model: Any = None

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""
        rows, labels = table(examples), np.concatenate([_labels(example) for example in examples])
        predicted = np.full(len(rows), PRIOR) if self._model is None else self._model.predict(rows)
        self._features.append(rows)
        self._labels.append(labels)
        self._waiting += len(rows)
        if self._waiting >= self._every:
            self._waiting = 0
            self._fit()
        return _apart(np.asarray(predicted, np.float32), examples)

    def _fit(self) -> None:
        data = self._lightgbm.Dataset(np.concatenate(self._features), np.concatenate(self._labels))
        options = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 31, "verbosity": -1, "seed": 0}
        self._model = self._lightgbm.train(options, data, num_boost_round=200)


class VowpalWabbit:
    """Vowpal Wabbit's logistic regression: the same numbers, item and category, and the numbers crossed."""

    def __init__(self, samples: int) -> None:  # noqa: ARG002
        from vowpalwabbit import Workspace

        self._workspace = Workspace("--loss_function logistic --link logistic -b 22 -q nn --quiet --random_seed 0")

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""
        lines = [
            f"|n {' '.join(f'{place}:{value:.4g}' for place, value in enumerate(row))} |i {item} |c {category}"
            for example, rows in zip(examples, _apart(table(examples), examples), strict=True)
            for row, item, category in zip(rows, example.items.tolist(), example.categories.tolist(), strict=True)
        ]
        predicted = np.array([self._workspace.predict(line) for line in lines], np.float32)
        labels = np.concatenate([_labels(example) for example in examples])
        for line, label in zip(lines, labels.tolist(), strict=True):
            self._workspace.learn(f"{'1' if label else '-1'} {line}")
        return _apart(predicted, examples)


class River:
    """River's logistic regression with standardised numbers, learning online."""

    def __init__(self, samples: int) -> None:  # noqa: ARG002
        from river import linear_model, optim, preprocessing

        self._model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.Adam(0.003))

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""
        rows = [dict(enumerate(row)) for row in table(examples).tolist()]
        labels = np.concatenate([_labels(example) for example in examples])
        predicted = [self._model.predict_proba_one(row).get(True, PRIOR) for row in rows]
        for row, label in zip(rows, labels.tolist(), strict=True):
            self._model.learn_one(row, bool(label))
        return _apart(np.array(predicted, np.float32), examples)


PEERS: dict[str, Callable[[int], OnlineRanker]] = {"lightgbm": BoostedTrees, "vw": VowpalWabbit, "river": River}
"""Name → makes the peer for so many samples; raises ImportError where it is not installed."""


def table(examples: Sequence[Example]) -> Matrix:
    """Return (n, k): for each candidate, one after another, the numbers of its matches and its own."""
    first = examples[0].numbers
    longest = max(1, *(len(example.sequence) for example in examples))
    batch: Batch = collate(examples, length=longest, numbers=0 if first is None else first.shape[1])
    with torch.inference_mode():
        numbers = torch.cat([match_features(count_matches(find_matches(batch), batch), batch), batch.numbers], dim=-1)
        rows: Matrix = numbers[batch.target_mask].numpy()
    return rows


def _labels(example: Example) -> npt.NDArray[np.float32]:
    if example.labels is None:
        raise ValueError("every example to learn from needs labels")
    return example.labels


def _apart(rows: Matrix, examples: Sequence[Example]) -> list[Matrix]:
    ends = np.cumsum([len(example.items) for example in examples])
    return list(np.split(rows, ends[:-1]))
