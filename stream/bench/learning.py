"""`bench learning`: how well arms and peers rank real visits that they have not learned from yet; without Kafka."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from model.device import configure_torch
from model.learner import Learner
from model.spec import preset
from state.feature import Feature
from stream.bench.harness.rankers import PEERS, DecayedPopularity
from stream.datasets import open_dataset
from stream.datasets.base import advised_features
from stream.errors import SettingsError
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, picture
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.validation.contest import BATCH, SAMPLES, WARM_UP, Contestant, Samples, contest, judge

ARMS = ("sam", "din", "mean", "counts")
_FIRST = "sam"
_QUICK = 60
_NEAR = 0.1
"""AUC by which a ranker may be worse than the best, and still be in the picture."""


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
        f" steps of at least {BATCH} visits and {SAMPLES} samples;"
        f" ± is a standard error over {len(np.unique(samples.users))} users, of differences"
        f" paired; one thread for the arms, as many as there are cores for LightGBM"
    )
    rows = rows_of(samples, contestants)
    targets = [] if dataset.has_exposures else _targets(rows)
    return Findings({"results": rows}, lambda: _picture(rows, drawn), targets, notes)


def rows_of(samples: Samples, contestants: Mapping[str, Contestant]) -> list[dict[str, Any]]:
    """Return a row of metrics for each contestant, with its difference from the first."""
    predicted = {name: np.concatenate(contestant.predictions) for name, contestant in contestants.items()}
    first = next(iter(predicted))
    return [
        {
            "arm": name,
            "AUC": round(found.auc, 5),
            "± AUC": round(found.auc_error, 5),
            f"AUC less {first}'s": round(found.ahead, 5),
            "±": round(found.ahead_error, 5),
            "GAUC": round(found.gauc, 5),
            "NE": round(found.ne, 5),
            "calibration": round(found.calibration, 4),
            "seconds": round(contestants[name].seconds, 1),
        }
        for name, found in judge(samples, predicted, first).items()
    ]


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
