"""`bench trees`: LightGBM on counted features behind the same worker, beside arms: how well it ranks, what it costs.

It is the job of Metarank: lists of candidates from Kafka, ordered by boosted trees over counts.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from model.device import configure_torch
from model.learner import Learner
from model.scorer import Scorer
from model.spec import preset
from stream.bench.harness.examples import example
from stream.bench.harness.load import Population, loaded_system
from stream.bench.harness.process_cpu import cpu_seconds
from stream.bench.harness.timing import time_alternately
from stream.bench.harness.trees import SETTINGS, BoostedTrees, ServedTrees
from stream.bench.harness.trees_worker import launcher
from stream.datasets import open_dataset
from stream.errors import SettingsError
from stream.report.findings import Findings
from stream.report.plots.figure import INK, PALETTE, pictures
from stream.validation.contest import WARM_UP, Contestant, Judgement, contest, judge

ARMS = ("sam", "counts")
TREES_ARM = "counts"
"""The arm whose worker answers by trees: it reads what they do."""
_RATE, _ROUNDS, _SECONDS, _WARM_UP_S = 40.0, 2, 15.0, 5.0
_REQUESTS = 60
_QUICK_VISITS = 60


@dataclass(frozen=True, slots=True)
class Served:
    """One round behind a worker: p50 and p99 of the latency, ms, and the worker's CPU ms for an impression."""

    p50: float
    p99: float
    cpu_ms: float


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Let all go through the same visits, then answer the same load, one after the other in each round.

    Raises:
        SettingsError: when LightGBM is not installed.
    """
    quick = arguments.quick
    configure_torch(threads=1)
    dataset = open_dataset(arguments.dataset, arguments.data, seed=arguments.seed, negatives=arguments.negatives)
    visits = _QUICK_VISITS if quick else min(arguments.visits or dataset.totals.visits, dataset.totals.visits)
    samples = dataset.totals.samples * visits // dataset.totals.visits
    arms = {name: Learner(preset(name), seed=arguments.seed) for name in ARMS}
    try:
        trees = {name: BoostedTrees(samples, (), setting, of_users=False) for name, setting in SETTINGS.items()}
    except ImportError as error:
        raise SettingsError(f"LightGBM is not installed: pip install 'samstream[peers]' ({error})") from error
    contestants = {name: Contestant(ranker) for name, ranker in (arms | trees).items()}
    judged = contest(dataset, contestants, visits, console)
    predicted = {name: np.concatenate(each.predictions) for name, each in contestants.items()}
    found = judge(judged, predicted, ARMS[0])
    learning = {name: contestants[name].cpu_s for name in arms} | {name: each.fit_cpu_s for name, each in trees.items()}
    population = Population(users=20, history=60) if quick else Population()
    rounds, seconds, repeats = (1, 1.0, 5) if quick else (_ROUNDS, _SECONDS, _REQUESTS)
    with TemporaryDirectory(prefix="samstream-trees-") as folder:
        files = {name: Path(folder) / f"{place}.txt" for place, name in enumerate(trees)}
        for name, file in files.items():
            trees[name].fit()
            trees[name].save(file)
        alone = _requests(files, population, repeats)
        served: dict[str, list[Served]] = {name: [] for name in contestants}
        for number in range(rounds):
            for name in contestants:
                started = launcher(files[name], name) if name in files else ()
                arm = TREES_ARM if name in files else name
                served[name].append(_serve(arguments.broker, population, arm, started, seconds))
                console.print(f"round {number + 1}: {name}, {served[name][-1]}")
    rows = [_row(name, found[name], 1000 * learning[name] / visits, alone[name], served[name]) for name in contestants]
    notes = [
        f"{dataset.name}, negatives: {arguments.negatives}; {visits:,} visits of {samples / visits:.0f} candidates,"
        f" the last {1 - WARM_UP:.0%} judged, each predicted before it is learned from; all read the matches and the"
        " statistics, none features of callers",
        f"±: a standard error over {len(np.unique(judged.users))} users, of differences paired",
        "learning: of one visit. Trees are grown several times"
        f" ({', '.join(f'{name}: {each.refits}' for name, each in SETTINGS.items())}), each time from all of the past,"
        " which is spread over all visits; their features are those that were served, and cost nothing there",
        f"request: {population.candidates} candidates, {population.history} behaviours, alone in one process, features"
        f" included, the median of {repeats}",
        f"worker: all that it does for an impression; medians of {rounds} round(s) of {seconds:g} s at {_RATE:g} a"
        " second; one thread each",
    ]
    return Findings({"results": rows}, lambda: _picture(rows), notes=notes)


def _row(name: str, found: Judgement, learning: float, alone: float, served: Sequence[Served]) -> dict[str, Any]:
    """Return the row of a ranker; trees that only rank have no NE."""
    ranks = name in SETTINGS and SETTINGS[name].ranks
    return {
        "ranker": name,
        "AUC": round(found.auc, 5),
        "± AUC": round(found.auc_error, 5),
        f"AUC less {ARMS[0]}'s": round(found.ahead, 5),
        "±": round(found.ahead_error, 5),
        "NDCG@10": round(found.ndcg, 5),
        f"NDCG less {ARMS[0]}'s": round(found.ndcg_ahead, 5),
        "± NDCG@10": round(found.ndcg_ahead_error, 5),
        "MRR": round(found.mrr, 5),
        "NE": None if ranks else round(found.ne, 5),
        "learning, CPU ms": learning,
        "request, CPU ms": alone,
        "worker, CPU ms": float(np.median([each.cpu_ms for each in served])),
        "p50, ms": float(np.median([each.p50 for each in served])),
        "p99, ms": float(np.median([each.p99 for each in served])),
    }


def _requests(files: Mapping[str, Path], population: Population, repeats: int) -> dict[str, float]:
    """Return the CPU ms of one request of each ranker, features included, timed in turns."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(population.candidates, preset(TREES_ARM).numbers)).astype(np.float32)
    asked = replace(example(rng, population.history, population.candidates), numbers=numbers)
    scorers: dict[str, Scorer | ServedTrees] = {name: Scorer(preset(name)) for name in ARMS}
    scorers |= {name: ServedTrees(file, SETTINGS[name]) for name, file in files.items()}

    def ask(scorer: Scorer | ServedTrees) -> Callable[[], object]:
        return lambda: scorer.score([asked])

    sides = {name: ask(scorer) for name, scorer in scorers.items()}
    timed = time_alternately(sides, repeats=repeats, clock=time.process_time)
    return {name: 1000 * summary.median for name, summary in timed.items()}


def _serve(broker: str, population: Population, arm: str, started: Sequence[str], seconds: float) -> Served:
    """Answer a load with one worker, started as said, beside a trainer that learns from the clicks."""
    with loaded_system(broker, population, launcher=started, arm=arm) as (system, load):
        load.run(_RATE, min(seconds, _WARM_UP_S), system.check)
        worker = system.processes.pid("worker-1")
        before = cpu_seconds(worker)
        answers = load.run(_RATE, seconds, system.check).answers
        spent = cpu_seconds(worker) - before
        p50, p99 = np.percentile([answer.latency_ms for answer in answers], (50, 99)).tolist()
        return Served(p50, p99, 1000 * spent / len(answers))


def _picture(rows: Sequence[Mapping[str, Any]]) -> bytes:
    best = max(rows, key=lambda row: float(row["AUC"]))
    title = f"{best['ranker']} ranks best: AUC {best['AUC']:.4f}"
    subtitle = "AUC, each sample predicted before it was learned from (bars: 2 standard errors); CPU ms of a worker"
    with pictures(2, title, subtitle, height=3.6) as ((left, right), save):
        for place, row in enumerate(rows):
            left.errorbar(row["AUC"], place, xerr=2 * row["± AUC"], fmt="o", color=PALETTE[0], capsize=3)
            spent = row["worker, CPU ms"]
            right.barh(place, spent, color=PALETTE[0], height=0.6)
            right.text(spent, place, f"  {spent:.2f}", va="center", color=INK)
        left.set_yticks(range(len(rows)), [row["ranker"] for row in rows])
        left.set_ylim(-0.6, len(rows) - 0.4)
        left.set_xlabel("AUC")
        right.set_yticks([])
        right.set_ylim(-0.6, len(rows) - 0.4)
        right.margins(x=0.2)
        right.set_xlabel("CPU ms an impression")
        left.figure.subplots_adjust(left=0.24)
        return save()
