"""What an engineer would pick instead: other rankers on the same samples and the same features, in one pass."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.example import Example
from model.interest.baselines import PRIOR
from model.predict import Predictions
from model.statistics.decayed_counts import DecayedCounts
from stream.bench.harness.peer_table import Features, Matrix, Table, TableMaker
from stream.validation.contest import OnlineRanker

_DAY_S = 86_400.0


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
    """LightGBM, refitted to all of the past now and then; texts are categorical.

    Args:
        samples: how many there will be.
        features: of callers that it gets.
        refits: how often it is fitted.
    """

    def __init__(self, samples: int, features: Features = (), refits: int = 20) -> None:
        import lightgbm

        self._lightgbm = lightgbm
        self._tables = TableMaker(features)
        self._every = max(1, samples // refits)
        self._codes: list[dict[int, int]] = []
        self._rows: list[Matrix] = []
        self._labels: list[npt.NDArray[np.float32]] = []
        self._waiting = 0
        self._model: Any = None

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""
        rows, labels = self._encoded(self._tables.table(examples)), _labels_of(examples)
        predicted = np.full(len(rows), PRIOR) if self._model is None else self._model.predict(rows)
        self._rows.append(rows)
        self._labels.append(labels)
        self._waiting += len(rows)
        if self._waiting >= self._every:
            self._waiting = 0
            self._fit()
        return _apart(np.asarray(predicted, np.float32), examples)

    def _encoded(self, found: Table) -> Matrix:
        """Return the numbers, then each text as a number from 0, in the order in which they come; −1 for none."""
        self._codes = self._codes or [{0: -1} for _ in range(found.texts.shape[1])]
        texts = [
            [codes.setdefault(key, len(codes) - 1) for key in column]
            for codes, column in zip(self._codes, found.texts.T.tolist(), strict=True)
        ]
        return np.column_stack([found.numbers, *(np.array(column, np.float32) for column in texts)])

    def _fit(self) -> None:
        rows = np.concatenate(self._rows)
        texts = list(range(rows.shape[1] - len(self._codes), rows.shape[1]))
        data = self._lightgbm.Dataset(rows, np.concatenate(self._labels), categorical_feature=texts)
        options = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 31, "verbosity": -1, "seed": 0}
        self._model = self._lightgbm.train(options, data, num_boost_round=200)


class VowpalWabbit:
    """Vowpal Wabbit's logistic regression: numbers, item, category and texts, and the numbers crossed."""

    def __init__(self, samples: int, features: Features = ()) -> None:  # noqa: ARG002
        from vowpalwabbit import Workspace

        self._workspace = Workspace("--loss_function logistic --link logistic -b 22 -q nn --quiet --random_seed 0")
        self._tables = TableMaker(features)

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""
        found = self._tables.table(examples)
        items = np.concatenate([example.items for example in examples]).tolist()
        categories = np.concatenate([example.categories for example in examples]).tolist()
        lines = [
            f"|n {' '.join(f'{place}:{value:.4g}' for place, value in enumerate(row) if value == value)}"
            f" |i {item} |c {category} |t {' '.join(f'k{key}' for key in texts if key)}"
            for row, item, category, texts in zip(
                found.numbers.tolist(), items, categories, found.texts.tolist(), strict=True
            )
        ]
        predicted = np.array([self._workspace.predict(line) for line in lines], np.float32)
        for line, label in zip(lines, _labels_of(examples).tolist(), strict=True):
            self._workspace.learn(f"{'1' if label else '-1'} {line}")
        return _apart(predicted, examples)


class River:
    """River's logistic regression with standardised numbers and texts as they are, learning online."""

    def __init__(self, samples: int, features: Features = ()) -> None:  # noqa: ARG002
        from river import linear_model, optim, preprocessing

        self._scaler = preprocessing.StandardScaler()
        self._model = linear_model.LogisticRegression(optim.Adam(0.003))
        self._tables = TableMaker(features)

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""
        found, labels = self._tables.table(examples), _labels_of(examples)
        rows = [{place: value for place, value in enumerate(row) if value == value} for row in found.numbers.tolist()]
        texts = [{f"k{key}": 1.0 for key in keys if key} for keys in found.texts.tolist()]
        predicted = [
            self._model.predict_proba_one(self._scaler.transform_one(row) | own).get(True, PRIOR)
            for row, own in zip(rows, texts, strict=True)
        ]
        for row, own, label in zip(rows, texts, labels.tolist(), strict=True):
            self._scaler.learn_one(row)
            self._model.learn_one(self._scaler.transform_one(row) | own, bool(label))
        return _apart(np.array(predicted, np.float32), examples)


PEERS: dict[str, Callable[[int, Features], OnlineRanker]] = {
    "lightgbm": BoostedTrees,
    "vw": VowpalWabbit,
    "river": River,
}
"""Name → makes the peer for so many samples and these features; raises ImportError where it is not installed."""


def _labels(example: Example) -> npt.NDArray[np.float32]:
    if example.labels is None:
        raise ValueError("every example to learn from needs labels")
    return example.labels


def _labels_of(examples: Sequence[Example]) -> npt.NDArray[np.float32]:
    return np.concatenate([_labels(example) for example in examples])


def _apart(rows: Matrix, examples: Sequence[Example]) -> list[Matrix]:
    ends = np.cumsum([len(example.items) for example in examples])
    return list(np.split(rows, ends[:-1]))
