"""LightGBM on what the arms read: refitted now and then while it goes through samples, and serving a fitted file."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.example import Example
from model.interest.baselines import PRIOR
from model.predict import Predictions
from stream.bench.harness.peer_table import Features, Matrix, Table, TableMaker, by_example, labels_of


@dataclass(frozen=True, slots=True)
class TreeSetting:
    """How trees are grown, and when.

    Attributes:
        options: LightGBM's, by name.
        trees: how many.
        refits: how often they are grown anew while all samples pass.
        threads: of growing and predicting; 0 for as many as there are cores.
    """

    options: Mapping[str, Any]
    trees: int
    refits: int = 20
    threads: int = 0

    @property
    def ranks(self) -> bool:
        """Whether only the order within a list is learned, so that what is predicted is no probability."""
        return bool(self.options["objective"] == "lambdarank")


BINARY = TreeSetting({"objective": "binary", "learning_rate": 0.05, "num_leaves": 31}, trees=200)
_CAREFUL = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
}
SETTINGS = {
    "lightgbm, binary": TreeSetting({"objective": "binary", **_CAREFUL}, trees=200, threads=1),
    "lightgbm, lambdarank": TreeSetting(
        {"objective": "lambdarank", "lambdarank_truncation_level": 30, **_CAREFUL}, trees=200, threads=1
    ),
    "lightgbm, as in Metarank": TreeSetting(
        {
            "objective": "lambdarank",
            "learning_rate": 0.1,
            "num_leaves": 16,
            "max_depth": 8,
            "feature_fraction": 0.8,
            "lambdarank_truncation_level": 10,
        },
        trees=100,
        threads=1,
    ),
}
"""Name → setting: the best that was found for each objective, and the defaults of Metarank's `lambdamart`."""


@dataclass(slots=True)
class _Past:
    rows: list[Matrix] = field(default_factory=list)
    labels: list[npt.NDArray[np.float32]] = field(default_factory=list)
    lists: list[int] = field(default_factory=list)
    """Candidates of each list."""


class BoostedTrees:
    """LightGBM, refitted to all of the past now and then; texts are categorical.

    Args:
        samples: how many there will be.
        features: of callers that it gets.
        setting: how it is fitted.
        of_users: as `TableMaker` takes it.

    Attributes:
        fit_cpu_s: CPU seconds that fitting took so far; making the table is not part of it.
    """

    def __init__(
        self, samples: int, features: Features = (), setting: TreeSetting = BINARY, *, of_users: bool = True
    ) -> None:
        import lightgbm

        self._lightgbm = lightgbm
        self._setting = setting
        self._tables = TableMaker(features, of_users=of_users)
        self._every = max(1, samples // setting.refits)
        self._codes: list[dict[int, int]] = []
        self._past = _Past()
        self._waiting = 0
        self._model: Any = None
        self.fit_cpu_s = 0.0

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""
        rows, labels = self._encoded(self._tables.table(examples)), labels_of(examples)
        predicted = np.full(len(rows), PRIOR) if self._model is None else _predicted(self._model, rows, self._setting)
        self._past.rows.append(rows)
        self._past.labels.append(labels)
        self._past.lists += [len(example.items) for example in examples]
        self._waiting += len(rows)
        if self._waiting >= self._every:
            self._waiting = 0
            began = time.process_time()
            self.fit()
            self.fit_cpu_s += time.process_time() - began
        return by_example(predicted.astype(np.float32), examples)

    def fit(self) -> None:
        """Grow the trees anew, from all of the past."""
        rows = np.concatenate(self._past.rows)
        data = self._lightgbm.Dataset(
            rows,
            np.concatenate(self._past.labels),
            group=self._past.lists if self._setting.ranks else None,
            categorical_feature=list(range(rows.shape[1] - len(self._codes), rows.shape[1])),
        )
        options = {**self._setting.options, "verbosity": -1, "seed": 0, "num_threads": self._setting.threads}
        self._model = self._lightgbm.train(options, data, num_boost_round=self._setting.trees)

    def save(self, file: Path) -> None:
        """Write the trees that were grown last.

        Raises:
            ValueError: when none were.
        """
        if self._model is None:
            raise ValueError("nothing was fitted yet")
        self._model.save_model(str(file))

    def _encoded(self, found: Table) -> Matrix:
        """Return the numbers, then each text as a number from 0, in the order in which they come; −1 for none."""
        self._codes = self._codes or [{0: -1} for _ in range(found.texts.shape[1])]
        texts = [
            [codes.setdefault(key, len(codes) - 1) for key in column]
            for codes, column in zip(self._codes, found.texts.T.tolist(), strict=True)
        ]
        return np.column_stack([found.numbers, *(np.array(column, np.float32) for column in texts)])


class ServedTrees:
    """Answers requests with fitted trees, on one thread.

    Args:
        file: written by `BoostedTrees.save`, of trees without features of callers and columns of users.
        setting: with which they were grown.
    """

    def __init__(self, file: Path, setting: TreeSetting) -> None:
        import lightgbm

        self._model = lightgbm.Booster(model_file=str(file))
        self._setting = TreeSetting(setting.options, setting.trees, threads=1)
        self._tables = TableMaker(of_users=False)

    def score(self, examples: Sequence[Example]) -> Predictions:
        """Return numbers between 0 and 1 for the (C,) candidates of each example, the higher the better."""
        if not examples:
            return []
        rows = self._tables.table(examples).numbers
        return by_example(_predicted(self._model, rows, self._setting).astype(np.float32), examples)


def _predicted(model: Any, rows: Matrix, setting: TreeSetting) -> npt.NDArray[np.float64]:
    """Return (n,) numbers between 0 and 1: probabilities, or of trees that rank what has the same order."""
    found: npt.NDArray[np.float64] = model.predict(rows, num_threads=setting.threads)
    return 1 / (1 + np.exp(-found)) if setting.ranks else found
