"""Rankers go through the visits of a data set together; each predicts every sample before it learns from it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from model import metrics
from model.example import Example
from model.predict import Predictions
from model.spec import HALF_LIVES_S
from stream.datasets.base import Dataset, Visit, first_visits
from stream.datasets.histories import Histories
from stream.experiment.statistics.auc import auc_difference, clustered_auc
from stream.experiment.statistics.intervals import Interval, clustered_rate
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.validation.lists import ndcg_and_reciprocal_rank

WARM_UP = 0.4
"""Share of the visits before those that are judged."""
BATCH = 16
"""Visits of a step, at least."""
SAMPLES = 64
"""Samples of a step, at least: where a visit is one video, 16 of them are few."""
LENGTH = 1000
"""Behaviours of each history that rankers are given."""
ONE_ERROR = 0.6827
"""Confidence of an interval that is one standard error wide to either side."""

VisitBatch = list[tuple[str, Example]]
"""Users, and examples of their visits."""


class OnlineRanker(Protocol):
    """Goes through a stream of samples once."""

    def learn(self, examples: Sequence[Example]) -> Predictions:
        """Predict the labels of examples, then learn from them."""


@dataclass(slots=True)
class Contestant:
    """A ranker, the predictions it made before it learned, and the seconds it took, by the clock and of all cores."""

    ranker: OnlineRanker
    predictions: list[npt.NDArray[np.float32]] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0

    def learn(self, examples: Sequence[Example]) -> None:
        """Predict, then learn."""
        began, cpu = time.perf_counter(), time.process_time()
        self.predictions += self.ranker.learn(examples)
        self.seconds += time.perf_counter() - began
        self.cpu_s += time.process_time() - cpu


@dataclass(frozen=True, slots=True)
class Samples:
    """What is judged: (n,) labels, (n,) numbers of users and of visits from 0, and which are after the warm-up."""

    labels: npt.NDArray[np.float64]
    users: npt.NDArray[np.int64]
    visits: npt.NDArray[np.int64]
    judged: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judgement:
    """How well a ranker did; errors are standard errors over users.

    Attributes:
        auc: area under the ROC curve.
        auc_error: of it.
        ahead: by how much the AUC is above the reference's.
        ahead_error: of that, paired.
        gauc: AUC within users, weighted by samples.
        ne: normalised entropy.
        calibration: predicted over real clicks.
        ndcg: NDCG@10, the mean over visits with positives and negatives; NaN where there is none.
        ndcg_error: of it.
        ndcg_ahead: by how much it is above the reference's.
        ndcg_ahead_error: of that, paired.
        mrr: mean reciprocal rank of the first positive, over the same visits.
    """

    auc: float
    auc_error: float
    ahead: float
    ahead_error: float
    gauc: float
    ne: float
    calibration: float
    ndcg: float
    ndcg_error: float
    ndcg_ahead: float
    ndcg_ahead_error: float
    mrr: float


def contest(
    dataset: Dataset,
    contestants: Mapping[str, Contestant],
    visits: int,
    console: Console,
    schema: FeatureSchema = NO_FEATURES,
) -> Samples:
    """Have all contestants go through the first visits of a data set, a batch each in turn."""
    samples = _Samples()
    total = min(-(-visits // BATCH), -(-dataset.totals.samples // SAMPLES))
    for batch in track(list_batches(dataset, visits, schema), "batches", total=total, console=console):
        for contestant in contestants.values():
            contestant.learn([example for _, example in batch])
        samples.add(batch)
    return samples.all()


def list_batches(dataset: Dataset, visits: int, schema: FeatureSchema = NO_FEATURES) -> Iterator[VisitBatch]:
    """Yield users and examples; each has the history and the statistics before its visit, and these features."""
    histories = Histories(LENGTH, HALF_LIVES_S, schema)
    batch: VisitBatch = []
    for step in first_visits(dataset.steps(), visits):
        if isinstance(step, Visit):
            batch.append((step.impression.user, histories.example(step)))
            if len(batch) >= BATCH and sum(len(example.items) for _, example in batch) >= SAMPLES:
                yield batch
                batch = []
        histories.observe(step)
    if batch:
        yield batch


def judge(samples: Samples, predicted: Mapping[str, npt.NDArray[np.floating]], reference: str) -> dict[str, Judgement]:
    """Return how well each ranker's (n,) predictions did on the samples after the warm-up.

    Args:
        samples: labels and users of all predictions.
        predicted: by ranker.
        reference: the ranker whom all are compared with, on the same samples.
    """
    labels, users = samples.labels[samples.judged], samples.users[samples.judged]
    found = {name: each[samples.judged].astype(np.float64) for name, each in predicted.items()}
    _, first, lists = np.unique(samples.visits[samples.judged], return_index=True, return_inverse=True)
    ranked = {name: ndcg_and_reciprocal_rank(labels, own, lists) for name, own in found.items()}
    judgements = {}
    for name, own in found.items():
        ahead = auc_difference(labels, own, found[reference], users, level=ONE_ERROR)
        area = clustered_auc(labels, own, users, level=ONE_ERROR)
        gained, ranks = ranked[name]
        ndcg, ndcg_ahead = (_mean(users[first], each) for each in (gained, gained - ranked[reference][0]))
        judgements[name] = Judgement(
            area.value,
            area.high - area.value,
            ahead.value,
            ahead.high - ahead.value,
            metrics.gauc(labels, own, users),
            metrics.normalised_entropy(labels, own),
            metrics.calibration(labels, own),
            ndcg.value,
            ndcg.high - ndcg.value,
            ndcg_ahead.value,
            ndcg_ahead.high - ndcg_ahead.value,
            _mean(users[first], ranks).value,
        )
    return judgements


def _mean(users: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> Interval:
    """Return the mean of (k,) values, those that are numbers, with an interval of one standard error over users."""
    known = ~np.isnan(values)
    if not known.any():
        return Interval(np.nan, np.nan, np.nan)
    return clustered_rate(users[known], np.ones(int(known.sum())), values[known], level=ONE_ERROR)


class _Samples:
    def __init__(self) -> None:
        self._labels: list[npt.NDArray[np.float32]] = []
        self._numbers: dict[str, int] = {}
        self._users: list[int] = []
        self._sizes: list[int] = []

    def add(self, batch: VisitBatch) -> None:
        for user, example in batch:
            assert example.labels is not None
            self._labels.append(example.labels)
            self._users += [self._numbers.setdefault(user, len(self._numbers))] * len(example.items)
            self._sizes.append(len(example.items))

    def all(self) -> Samples:
        judged = np.repeat(np.arange(len(self._sizes)) >= WARM_UP * len(self._sizes), self._sizes)
        visits = np.repeat(np.arange(len(self._sizes)), self._sizes)
        return Samples(np.concatenate(self._labels).astype(np.float64), np.array(self._users), visits, judged)


def samples_of(batches: Sequence[VisitBatch]) -> Samples:
    """Return what is judged of batches, all at once."""
    samples = _Samples()
    for batch in batches:
        samples.add(batch)
    return samples.all()
