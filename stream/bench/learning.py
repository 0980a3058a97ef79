"""`bench learning`: how well arms and peers rank real visits that they have not learned from yet; without Kafka."""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from model import metrics
from model.device import configure_torch
from model.example import Example
from model.learner import Learner
from model.spec import HALF_LIVES_S, preset
from state.feature import Feature
from stream.bench.harness.rankers import PEERS, DecayedPopularity, OnlineRanker
from stream.datasets import open_dataset
from stream.datasets.base import Dataset, Visit, advised_features, first_visits
from stream.datasets.histories import Histories
from stream.errors import SettingsError
from stream.experiment.statistics.auc import auc_difference, clustered_auc
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, picture
from stream.schema.features import NO_FEATURES, FeatureSchema

WARM_UP = 0.4
"""Share of the visits before those that are judged."""
BATCH = 16
"""Visits of a step, at least."""
_SAMPLES = 64
"""Samples of a step, at least: where a visit is one video, 16 of them are few."""
ONE_ERROR = 0.6827
"""Confidence of an interval that is one standard error wide to either side."""
ARMS = ("sam", "din", "mean", "counts")
_FIRST = "sam"
_QUICK = 60
_NEAR = 0.1
"""AUC by which a ranker may be worse than the best, and still be in the picture."""


@dataclass(slots=True)
class Contestant:
    """A ranker, the predictions it made before it learned, and the seconds it took."""

    ranker: OnlineRanker
    predictions: list[npt.NDArray[np.float32]] = field(default_factory=list)
    seconds: float = 0.0

    def learn(self, examples: Sequence[Example]) -> None:
        """Predict, then learn."""
        began = time.perf_counter()
        self.predictions += self.ranker.learn(examples)
        self.seconds += time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Samples:
    """What is judged: (n,) labels, (n,) numbers of the users from 0, and which are after the warm-up."""

    labels: npt.NDArray[np.float64]
    users: npt.NDArray[np.int64]
    judged: npt.NDArray[np.bool_]


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Let all go through the same samples, in turns."""
    dataset = open_dataset(arguments.dataset, arguments.data, seed=arguments.seed, negatives=arguments.negatives)
    visits = _QUICK if arguments.quick else dataset.totals.visits
    schema = FeatureSchema(advised_features(dataset)) if arguments.features else NO_FEATURES
    configure_torch(threads=1)
    drawn = "real exposures" if dataset.has_exposures else f"negatives: {arguments.negatives}"
    told = ", ".join(feature.name for feature in schema.features) or "none"
    notes = [f"{dataset.name}, {drawn}, {dataset.totals.behaviors:,} behaviours; features: {told}"]
    contestants = _contestants(arguments.peers, dataset.totals.samples, schema.features, arguments.seed, notes)
    samples = contest(dataset, contestants, visits, console, schema)
    notes.append(
        f"{visits:,} visits, of which the last {1 - WARM_UP:.0%} are judged: {int(samples.judged.sum()):,} samples;"
        f" steps of at least {BATCH} visits and {_SAMPLES} samples;"
        f" ± is a standard error over {len(np.unique(samples.users))} users, of differences"
        f" paired; one thread for the arms, as many as there are cores for LightGBM"
    )
    rows = rows_of(samples, contestants)
    targets = [] if dataset.has_exposures else _targets(rows)
    return Findings({"results": rows}, lambda: _picture(rows, drawn), targets, notes)


def contest(
    dataset: Dataset,
    contestants: Mapping[str, Contestant],
    visits: int,
    console: Console,
    schema: FeatureSchema = NO_FEATURES,
) -> Samples:
    """Have all contestants go through the first visits of a data set, a batch each in turn."""
    labels: list[npt.NDArray[np.float32]] = []
    numbers: dict[str, int] = {}
    users: list[int] = []
    sizes: list[int] = []
    total = min(-(-visits // BATCH), -(-dataset.totals.samples // _SAMPLES))
    for batch in track(list_batches(dataset, visits, schema), "batches", total=total, console=console):
        examples = [example for _, example in batch]
        for contestant in contestants.values():
            contestant.learn(examples)
        for user, example in batch:
            assert example.labels is not None
            labels.append(example.labels)
            users += [numbers.setdefault(user, len(numbers))] * len(example.items)
            sizes.append(len(example.items))
    judged = np.repeat(np.arange(len(sizes)) >= WARM_UP * len(sizes), sizes)
    return Samples(np.concatenate(labels).astype(np.float64), np.array(users), judged)


def list_batches(
    dataset: Dataset, visits: int, schema: FeatureSchema = NO_FEATURES
) -> Iterator[list[tuple[str, Example]]]:
    """Yield users and examples; each has the history and the statistics before its visit, and these features."""
    histories = Histories(preset(_FIRST).length, HALF_LIVES_S, schema)
    batch: list[tuple[str, Example]] = []
    for step in first_visits(dataset.steps(), visits):
        if isinstance(step, Visit):
            batch.append((step.impression.user, histories.example(step)))
            if len(batch) >= BATCH and sum(len(example.items) for _, example in batch) >= _SAMPLES:
                yield batch
                batch = []
        histories.observe(step)
    if batch:
        yield batch


def rows_of(samples: Samples, contestants: Mapping[str, Contestant]) -> list[dict[str, Any]]:
    """Return a row of metrics for each contestant, with its difference from the first."""
    labels, users = samples.labels[samples.judged], samples.users[samples.judged]
    predicted = {
        name: np.concatenate(contestant.predictions)[samples.judged].astype(np.float64)
        for name, contestant in contestants.items()
    }
    first = next(iter(predicted))
    rows = []
    for name, own in predicted.items():
        ahead = auc_difference(labels, own, predicted[first], users, level=ONE_ERROR)
        area = clustered_auc(labels, own, users, level=ONE_ERROR)
        rows.append(
            {
                "arm": name,
                "AUC": round(area.value, 5),
                "± AUC": round(area.high - area.value, 5),
                f"AUC less {first}'s": round(ahead.value, 5),
                "±": round(ahead.high - ahead.value, 5),
                "GAUC": round(metrics.gauc(labels, own, users), 5),
                "NE": round(metrics.normalised_entropy(labels, own), 5),
                "calibration": round(metrics.calibration(labels, own), 4),
                "seconds": round(contestants[name].seconds, 1),
            }
        )
    return rows


def _contestants(
    peers: Sequence[str], samples: int, features: tuple[Feature, ...], seed: int, notes: list[str]
) -> dict[str, Contestant]:
    first = msgspec.structs.replace(preset(_FIRST), features=features)
    specs = {name: msgspec.structs.replace(preset(name), features=features) for name in ARMS}
    if features:
        specs[f"{_FIRST}, no features"] = msgspec.structs.replace(first, features=())
    specs[f"{_FIRST}, no statistics"] = msgspec.structs.replace(first, statistics=())
    found = {name: Contestant(Learner(spec, seed=seed)) for name, spec in specs.items()}
    for name in peers:
        if name not in PEERS:
            raise SettingsError(f"no peer is called {name!r}; there are {', '.join(PEERS)}")
        try:
            found[name] = Contestant(PEERS[name](samples, features))
        except ImportError as error:
            notes.append(f"{name} is not installed, so it is not compared: pip install 'samstream[peers]' ({error})")
    found["popularity, decayed"] = Contestant(DecayedPopularity())
    return found


def _targets(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    by_arm = {row["arm"]: row for row in rows}
    first, best = by_arm[_FIRST], max(by_arm[name]["AUC"] for name in ARMS)
    targets = [
        Target("AUC of sam", first["AUC"], "", 0.828, "at least"),
        Target("GAUC of sam", first["GAUC"], "", 0.82, "at least"),
        Target("NE of sam", first["NE"], "", 0.711),
        Target("calibration of sam, off by", abs(first["calibration"] - 1), "", 0.02),
        Target("AUC of the best arm less sam's", best - first["AUC"], "", 0.001),
    ]
    if "lightgbm" in by_arm:
        ahead = first["AUC"] - by_arm["lightgbm"]["AUC"]
        targets.append(Target("AUC of sam less LightGBM's", ahead, "", 0.008, "at least"))
    return targets


def _picture(rows: Sequence[Mapping[str, Any]], drawn: str) -> bytes:
    ordered = sorted(rows, key=lambda row: float(row["AUC"]))
    best = ordered[-1]
    near = [row for row in ordered if row["AUC"] > best["AUC"] - _NEAR]
    far = [f"{row['arm']} {row['AUC']:.3f}" for row in ordered if row not in near]
    title = f"{best['arm']} ranks best: AUC {best['AUC']:.4f}"
    subtitle = f"each sample predicted before it was learned from; {drawn}; bars: 2 standard errors"
    subtitle += f"; not shown: {', '.join(far)}" if far else ""
    with picture(title, subtitle, height=0.42 * len(near) + 2.0) as (axes, save):
        for place, row in enumerate(near):
            colour = PALETTE[0] if row["arm"] in ARMS else PALETTE[1] if row["arm"] in PEERS else QUIET
            high = row["AUC"] + 2 * row["± AUC"]
            axes.errorbar(row["AUC"], place, xerr=2 * row["± AUC"], fmt="o", color=colour, capsize=3)
            axes.annotate(
                str(row["arm"]), (high, place), xytext=(8, 0), textcoords="offset points", va="center", color=colour
            )
        axes.set_yticks([])
        axes.set_ylim(-0.6, len(near) - 0.4)
        axes.set_xlabel("AUC")
        return save()
