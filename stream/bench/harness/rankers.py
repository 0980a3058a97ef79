"""What an engineer would pick instead: other rankers on the same samples and the same features, in one pass."""

from collections.abc import Callable, Sequence

import numpy as np

from model.example import Example
from model.interest.baselines import PRIOR
from model.predict import Predictions
from model.statistics.decayed_counts import DecayedCounts
from stream.bench.harness.peer_table import Features, TableMaker, by_example, labels_of
from stream.bench.harness.trees import BoostedTrees
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
            self._counts.add(example.items, times, 1, labels_of([example]).astype(np.float64))
        return predicted


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
        for line, label in zip(lines, labels_of(examples).tolist(), strict=True):
            self._workspace.learn(f"{'1' if label else '-1'} {line}")
        return by_example(predicted, examples)


class River:
    """River's logistic regression with standardised numbers and texts as they are, learning online."""

    def __init__(self, samples: int, features: Features = ()) -> None:  # noqa: ARG002
        from river import linear_model, optim, preprocessing

        self._scaler = preprocessing.StandardScaler()
        self._model = linear_model.LogisticRegression(optim.Adam(0.003))
        self._tables = TableMaker(features)

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""
        found, labels = self._tables.table(examples), labels_of(examples)
        rows = [{place: value for place, value in enumerate(row) if value == value} for row in found.numbers.tolist()]
        texts = [{f"k{key}": 1.0 for key in keys if key} for keys in found.texts.tolist()]
        predicted = [
            self._model.predict_proba_one(self._scaler.transform_one(row) | own).get(True, PRIOR)
            for row, own in zip(rows, texts, strict=True)
        ]
        for row, own, label in zip(rows, texts, labels.tolist(), strict=True):
            self._scaler.learn_one(row)
            self._model.learn_one(self._scaler.transform_one(row) | own, bool(label))
        return by_example(np.array(predicted, np.float32), examples)


PEERS: dict[str, Callable[[int, Features], OnlineRanker]] = {
    "lightgbm": BoostedTrees,
    "vw": VowpalWabbit,
    "river": River,
}
"""Name → makes the peer for so many samples and these features; raises ImportError where it is not installed."""
