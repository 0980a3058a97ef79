"""`lab models`: every kind of model on the same real visits; how well each ranks, and what it costs."""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from model.device import configure_torch
from model.errors import SpecError
from model.example import Example
from model.interest.options import KINDS
from model.scorer import Scorer
from model.spec import ModelSpec, count_numbers, preset
from state.behavior import BEHAVIOR
from stream.errors import SettingsError
from stream.lab.arm_names import named_spec
from stream.lab.freshness import DATA
from stream.lab.model_pass import ModelPass, PassResult, Visits
from stream.lab.plots import models_picture
from stream.lab.runs import run_all
from stream.report.findings import Findings, Rows
from stream.simulation.config import WorldConfig, with_changes
from stream.validation.contest import Judgement, judge

REFERENCE = "din"
"""The arm that all are compared with."""
QUICK_VISITS = 2000
CANDIDATES = 100
LONGER = 4
"""How many times as many behaviours the growth of the time is measured with."""
_SECONDS = 2.0
"""For how long each arm's requests are timed."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A model in the comparison: as an arm of the system has it, and its sequence alone.

    Attributes:
        name: of the arm.
        spec: with match features, statistics, and features of callers.
        pure: without all of these: what the sequence tells by itself. None for a kind that reads nothing else.
    """

    name: str
    spec: ModelSpec
    pure: ModelSpec | None


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Let all arms go through the same visits, time their answers, and compare them with the first reference."""
    data = arguments.data or (DATA if arguments.dataset == "complete-journey" and DATA.is_dir() else None)
    most = QUICK_VISITS if arguments.quick else arguments.visits
    world = with_changes(WorldConfig(), arguments.world)
    visits = Visits(arguments.dataset, data, most, arguments.features, world, arguments.seed)
    arms, left_out = choose(arguments.arms, arguments.lengths, visits)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    kept: Path = arguments.kept
    passes = {
        (arm.name, form, seed): ModelPass(spec, visits, seed, kept)
        for arm in arms
        for form, spec in (("full", arm.spec), ("pure", arm.pure))
        for seed in seeds
        if spec is not None
    }
    results = dict(zip(passes, run_all(list(passes.values()), console, processes=arguments.processes), strict=True))
    figures = _judged(arms, seeds, results, visits)
    configure_torch(threads=1)
    for arm in arms:
        console.print(f"requests of {arm.name}")
        figures[arm.name] |= time_requests(arm.spec, 5 if arguments.quick else 200)
    rmtree(kept, ignore_errors=True)
    notes = [
        *left_out,
        f"{visits.dataset}: {visits.count:,} visits, the last 60% judged, each sample predicted before it is learned;"
        f" {len(seeds)} seed{'s' * (len(seeds) > 1)}; ± is a standard error over users, differences are paired",
        "alone: the sequence alone, without match features, statistics and features",
        f"ms: a request of {CANDIDATES} candidates, with as many behaviours as the arm reads, on one thread;"
        f" × {LONGER}: how many times as long with {LONGER} times as many;"
        " a visit: one of the last, scored by what was learned, and the mean length that a policy chose for it;"
        f" samples/s: learned on one thread, {arguments.processes} processes side by side",
    ]
    tables = {"how well it ranks": _named(figures, _RANKING), "what it costs": _named(figures, _COST)}
    return Findings(tables, lambda: models_picture(figures, REFERENCE), notes=notes, fields={"arms": figures})


_RANKING = {
    "auc": "AUC",
    "auc_error": "± AUC",
    "ahead": f"less {REFERENCE}'s",
    "ahead_error": "±",
    "gauc": "GAUC",
    "ne": "NE",
    "calibration": "calibration",
    "pure_auc": "AUC alone",
    "pure_ahead": f"alone, less {REFERENCE}'s",
}
_COST = {
    "ms_p50": "ms p50",
    "ms_p99": "ms p99",
    "growth": f"× {LONGER}",
    "visit_ms": "CPU ms a visit",
    "chosen_length": "length chosen",
    "samples_per_s": "samples/s",
    "parameters": "parameters",
    "rows": "rows",
    "megabytes": "MB",
}
"""Figure → its column."""


def _named(figures: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> Rows:
    """Return some figures of all arms as rows of a table, the best AUC first."""
    ordered = sorted(figures.items(), key=lambda each: -float(each[1]["auc"]))
    return [{"arm": arm, **{said: found[name] for name, said in columns.items()}} for arm, found in ordered]


def choose(names: Sequence[str], lengths: Sequence[int], visits: Visits) -> tuple[list[Arm], list[str]]:
    """Return the arms, each name at each length and the reference among them; and which kinds were left out, and why.

    Args:
        names: presets, perhaps with options: `sam:passes=3:output=readouts`; none for every kind that reads histories.
        lengths: behaviours that are read.
        visits: what they read features of.

    Raises:
        SettingsError: for an unknown preset or option, or a named arm that cannot read so many behaviours.
    """
    every = names or [kind for kind in KINDS if preset(kind).length]
    arms, left_out = {}, []
    for name in dict.fromkeys([REFERENCE, *every]):
        for length in lengths:
            label = name if len(lengths) == 1 else f"{name}-{length}"
            try:
                spec = named_spec(name, length=length)
            except SpecError as error:
                if names:
                    raise SettingsError(f"arm {label}: {error}") from None
                left_out.append(f"{label} is left out: {error}")
                continue
            pure = None
            if spec.kind != "counts":
                pure = msgspec.structs.replace(spec, match=False, statistics=())
            features = visits.schema.features
            arms[label] = Arm(label, msgspec.structs.replace(spec, features=features), pure)
    return list(arms.values()), left_out


def _judged(
    arms: Sequence[Arm], seeds: Sequence[int], results: Mapping[tuple[str, str, int], PassResult], visits: Visits
) -> dict[str, dict[str, Any]]:
    """Return the figures of each arm, means over the seeds; the reference of a length is the one that reads as much."""
    samples = visits.samples()
    reference = {arm.spec.length: arm.name for arm in reversed(arms) if arm.spec.kind == REFERENCE}
    figures = {}
    for arm in arms:
        of = reference[arm.spec.length]
        found: dict[str, list[Judgement]] = {"full": [], "pure": []}
        for form, judgements in found.items():
            for seed in seeds:
                if (arm.name, form, seed) in results:
                    pair = {name: results[name, form, seed].predictions for name in (of, arm.name)}
                    judgements.append(judge(samples, pair, of)[arm.name])
        own = [results[arm.name, "full", seed] for seed in seeds]
        figures[arm.name] = {
            **_means(found["full"]),
            **{f"pure_{name}": value for name, value in _means(found["pure"]).items()},
            "samples_per_s": round(len(samples.labels) / np.mean([each.seconds for each in own])),
            "parameters": int(own[0].parameters),
            "rows": int(own[0].rows),
            "megabytes": round(own[0].megabytes, 2),
            "visit_ms": round(float(np.mean([each.visit_ms for each in own])), 3),
            "chosen_length": None if np.isnan(chosen := np.mean([each.chosen for each in own])) else round(chosen),
        }
    return figures


def _means(judgements: Sequence[Judgement]) -> dict[str, float | None]:
    if not judgements:
        return dict.fromkeys(Judgement.__slots__)
    return {
        name: round(float(np.mean([getattr(each, name) for each in judgements])), 5) for name in Judgement.__slots__
    }


def time_requests(spec: ModelSpec, most: int) -> dict[str, float | None]:
    """Return how long a request of `CANDIDATES` takes, in milliseconds, and how that grows with longer sequences.

    Args:
        spec: the model; features of callers are left out.
        most: requests that are timed.
    """
    spec = msgspec.structs.replace(spec, features=())
    times = _times(spec, most)
    try:
        longer = _times(msgspec.structs.replace(spec, length=LONGER * spec.length), max(most // 4, 3))
    except SpecError:
        longer = None
    p50 = float(np.median(times))
    return {
        "ms_p50": round(p50, 3),
        "ms_p99": round(float(np.percentile(times, 99)), 3),
        "growth": None if longer is None else round(float(np.median(longer)) / p50, 2),
    }


def _times(spec: ModelSpec, most: int) -> list[float]:
    scorer, rng = Scorer(spec), np.random.default_rng(0)
    sequence = np.zeros(spec.length, BEHAVIOR)
    sequence["item"] = rng.integers(1, 20_000, spec.length)
    sequence["category"] = 1 + sequence["item"] % 300
    sequence["ts"] = np.sort(rng.integers(0, 10**10, spec.length))
    offered = rng.integers(1, 20_000, CANDIDATES).astype(np.uint64)
    numbers = rng.normal(size=(CANDIDATES, count_numbers(spec.statistics))).astype(np.float32)
    asked = Example(sequence, 10**10, offered, (1 + offered % 300).astype(np.uint32), numbers=numbers)
    times: list[float] = []
    for _ in range(3):
        scorer.score([asked])
    end = time.perf_counter() + _SECONDS
    while len(times) < most and (len(times) < 3 or time.perf_counter() < end):
        began = time.perf_counter()
        scorer.score([asked])
        times.append(1000 * (time.perf_counter() - began))
    return times
