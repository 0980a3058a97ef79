"""One model's pass over real visits, in a process of a pool; a pass that is done is kept, so that a run can go on."""

import math
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from functools import cache
from itertools import chain, islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_hexdigest

import model
import state
from model.learner import Learner
from model.predict import table_dims
from model.scorer import Scorer
from model.spec import ModelSpec
from stream.datasets import open_dataset
from stream.datasets.base import Dataset, advised_features
from stream.lab.engine import OnProgress
from stream.lab.world_dataset import NAME, WorldDataset
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.simulation.config import WorldConfig
from stream.validation.contest import Samples, VisitBatch, list_batches, samples_of

_SERVED = 300
"""Visits that are scored at the end as a worker would."""


@dataclass(frozen=True, slots=True)
class Visits:
    """Which visits a model goes through.

    Attributes:
        dataset: name for `open_dataset`.
        data: folder of its files; None for where it is installed.
        visits: how many; None for all.
        features: whether events have the features that arms read unless told otherwise.
        world: of the data set `world`.
        seed: of the choice of visits, or of the world.
    """

    dataset: str
    data: Path | None
    visits: int | None
    features: bool
    world: WorldConfig = field(default_factory=WorldConfig)
    seed: int = 0

    @property
    def schema(self) -> FeatureSchema:
        """The features of events."""
        return FeatureSchema(advised_features(_opened(self))) if self.features else NO_FEATURES

    @property
    def count(self) -> int:
        """How many visits there are."""
        total = _opened(self).totals.visits
        return min(self.visits or total, total)

    def batches(self) -> Sequence[VisitBatch]:
        """Return the visits as steps of a learner; read once in a process."""
        return _batches(self)

    def samples(self) -> Samples:
        """Return what is judged of them."""
        return samples_of(self.batches())


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass left.

    Attributes:
        predictions: (n,) float32, each made before its sample was learned.
        seconds: that predicting and learning took, on one thread.
        parameters: of the network.
        rows: of all tables.
        megabytes: of parameters and rows as they are published.
        visit_ms: CPU milliseconds of a request like the last visits, scored one by one at the end; the median.
        chosen: the mean length that a policy chose for these visits; NaN without a policy.
    """

    predictions: npt.NDArray[np.float32]
    seconds: float
    parameters: int
    rows: int
    megabytes: float
    visit_ms: float
    chosen: float


@dataclass(frozen=True, slots=True)
class ModelPass:
    """A job for `stream.lab.runs.run_all`: a model predicts and learns each visit in order.

    Attributes:
        spec: the model.
        visits: what it goes through.
        seed: of the initial parameters.
        kept: folder of passes that are done.
    """

    spec: ModelSpec
    visits: Visits
    seed: int
    kept: Path

    @property
    def steps(self) -> int:
        """How many visits there are."""
        return self.visits.count

    def __call__(self, on_progress: OnProgress) -> PassResult:
        """Return what an earlier run has kept of this very pass, or go through the visits."""
        file = self.kept / f"{self._key()}.npz"
        if file.exists():
            with np.load(file) as found:
                on_progress(self.steps)
                return PassResult(found["predictions"], *found["figures"].tolist())
        result = self._run(on_progress)
        self.kept.mkdir(parents=True, exist_ok=True)
        whole = file.with_suffix(".part")
        with whole.open("wb") as out:
            predictions, *figures = astuple(result)
            np.savez(out, predictions=predictions, figures=np.array(figures))
        whole.rename(file)
        return result

    def _run(self, on_progress: OnProgress) -> PassResult:
        learner = Learner(self.spec, seed=self.seed)
        predictions: list[npt.NDArray[np.float32]] = []
        seconds = 0.0
        for batch in self.visits.batches():
            examples = [example for _, example in batch]
            began = time.perf_counter()
            predictions += learner.learn(examples)
            seconds += time.perf_counter() - began
            on_progress(len(batch))
        dense = sum(array.size for name, array in learner.state().items() if name.startswith("served/"))
        numbers = dense + sum(learner.rows[name] * (2 + dim) for name, dim in table_dims(self.spec).items())
        rows = sum(learner.rows.values())
        served = self._served(learner)
        return PassResult(np.concatenate(predictions), seconds, dense, rows, 4 * numbers / 1e6, *served)

    def _served(self, learner: Learner) -> tuple[float, float]:
        """Return what a scorer of what was learned takes for a visit (CPU ms), and the mean length that it chooses."""
        scorer = Scorer(self.spec, seed=self.seed)
        learner.begin_epoch(1)
        scorer.apply(learner.base("arm"))
        times: list[float] = []
        for _, example in islice(chain.from_iterable(reversed(self.visits.batches())), _SERVED):
            began = time.thread_time()
            scorer.score([example])
            times.append(1000 * (time.thread_time() - began))
        lengths = scorer.chosen_lengths
        chosen = np.average(list(lengths), weights=list(lengths.values())) if lengths else math.nan
        return float(np.median(times)), float(chosen)

    def _key(self) -> str:
        parts = self.spec, self.visits, self.seed, PassResult.__slots__, _sources()
        return xxh3_128_hexdigest(msgspec.json.encode(parts, order="sorted", enc_hook=str))


@cache
def _sources() -> str:
    """Return a hash of the code that a pass depends on: what another version has kept is not taken up."""
    folders = [Path(package.__path__[0]) for package in (model, state)]
    return xxh3_128_hexdigest(b"".join(file.read_bytes() for each in folders for file in sorted(each.rglob("*.py"))))


@cache
def _opened(visits: Visits) -> Dataset:
    if visits.dataset == NAME:
        return WorldDataset(visits.world, seed=visits.seed)
    return open_dataset(visits.dataset, visits.data, seed=visits.seed)


@cache
def _batches(visits: Visits) -> Sequence[VisitBatch]:
    return list(list_batches(_opened(visits), visits.count, visits.schema))
