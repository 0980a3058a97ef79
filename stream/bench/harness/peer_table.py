"""What arms read, as the table that an engineer would make of it for a ranker that knows no sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch, collate
from model.example import Example
from model.features.gather import columns_of
from model.match import count_matches, find_matches, match_features
from state.feature import Feature

ACTIONS = 4
"""Actions that are told apart: the first that come."""
LATELY = 10
"""The newest behaviours, which are told beside all."""

Matrix = npt.NDArray[np.float32]
Features = tuple[Feature, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """n candidates, one after another.

    Attributes:
        numbers: (n, k): of the user, of the matches, statistics, and features that are numbers; NaN where one is
            missing.
        texts: (n, m) int64 keys of the values of features that are texts, no two features with the same; 0 for none.
    """

    numbers: Matrix
    texts: npt.NDArray[np.int64]


class TableMaker:
    """Makes tables of examples, which come in the order of the stream.

    Of the user it tells, lately and ever, which share of behaviours each action has, and the mean of each feature of
    behaviours that is a number: so a table knows a user's click rate, too. Of candidates it has all that the models'
    heads get, but for embeddings and attention.

    Args:
        features: of callers that are told.
        of_users: whether the user's columns are told; without them the numbers are what arm `counts` reads.
    """

    def __init__(self, features: Features = (), *, of_users: bool = True) -> None:
        self._features = features
        self._of_users = of_users
        self._read = columns_of(features)
        self._actions: list[int] = []

    @property
    def user_columns(self) -> int:
        """How many of the numbers, the first ones, are of the user."""
        return self._of_users * 2 * (ACTIONS + len(self._read.past_numbers))

    def table(self, examples: Sequence[Example]) -> Table:
        """Return the table of all candidates of some examples."""
        first = examples[0].numbers
        longest = max(1, *(len(example.sequence) for example in examples))
        count = 0 if first is None else first.shape[1]
        batch: Batch = collate(examples, length=longest, numbers=count, features=self._features)
        counts = count_matches(find_matches(batch, features=self._read.matched_at), batch)
        parts, texts = [match_features(counts, batch), batch.numbers], batch.target_items.unsqueeze(-1)[..., :0]
        if batch.features is not None:
            parts.append(batch.features.shown_numbers)
            texts = batch.features.shown_keys
        numbers: Matrix = torch.cat(parts, dim=-1)[batch.target_mask].numpy()
        if self._of_users:
            of_users = np.array([self._of_user(example) for example in examples], np.float32)
            rows = np.repeat(of_users, [len(example.items) for example in examples], axis=0)
            numbers = np.concatenate([rows, numbers], axis=1)
        return Table(numbers, texts[batch.target_mask].numpy())

    def _of_user(self, example: Example) -> list[float]:
        """Return shares of actions and means of numbers, lately and ever."""
        row: list[float] = []
        for action in np.unique(example.sequence["action"]).tolist():
            if action not in self._actions and len(self._actions) < ACTIONS:
                self._actions.append(action)
        for past in (example.sequence[-LATELY:], example.sequence):
            shares = [float(np.mean(past["action"] == action)) if len(past) else np.nan for action in self._actions]
            row += shares + [np.nan] * (ACTIONS - len(shares))
            row += [_mean(past[feature.name]) for feature in self._read.past_numbers]
        return row


def _mean(values: npt.NDArray[np.floating]) -> float:
    """Return the mean of what is there; NaN for nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _labels(example: Example) -> npt.NDArray[np.float32]:
    if example.labels is None:
        raise ValueError("every example to learn from needs labels")
    return example.labels


def labels_of(examples: Sequence[Example]) -> npt.NDArray[np.float32]:
    """Return the labels of all candidates, one after another.

    Raises:
        ValueError: when an example has none.
    """
    return np.concatenate([_labels(example) for example in examples])


def by_example(rows: Matrix, examples: Sequence[Example]) -> list[Matrix]:
    """Return what belongs to each example's candidates."""
    ends = np.cumsum([len(example.items) for example in examples])
    return list(np.split(rows, ends[:-1]))
