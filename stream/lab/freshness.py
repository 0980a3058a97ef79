"""`lab freshness`: what is lost when a model is updated less often, in a simulated world and on real baskets.

It repeats the experiment of Monolith (Liu et al., arXiv 2209.07663): the model learns from a stream, and the interval
at which the serving parameters are updated varies.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from rich.console import Console

from stream.datasets import open_dataset
from stream.datasets.base import DatasetError
from stream.experiment.statistics.auc import auc_difference, clustered_auc
from stream.lab.engine import Rollout
from stream.lab.plots import freshness_picture
from stream.lab.results import ArmResults
from stream.lab.runs import Run, run_all
from stream.lab.script import QUICK, Scenario, with_measured_time
from stream.lab.validation import WARM_UP, ProgressiveValidation, ValidationScores
from stream.report.findings import Findings, Rows, interval_columns

MODEL, BASKET_MODEL = "din-50", "din-1000"
NEVER = "never"
INTERVALS: dict[str, float | None] = {
    "0.5 s": 0.5, "5 s": 5, "30 s": 30, "2 min": 120, "10 min": 600, NEVER: None,
}  # fmt: skip
"""Name → seconds of virtual time between updates of the model in the simulated world."""
BASKET_INTERVALS: dict[str, float | None] = {
    "1 hour": 3600, "1 day": 86_400, "1 week": 7 * 86_400, "4 weeks": 28 * 86_400, NEVER: None,
}  # fmt: skip
"""Name → seconds of event time between updates of the model on the baskets."""
DATA = Path("../shared/data/complete_journey")
FULL = Scenario(rate=8.0, warm_up_s=300.0, measured_s=2400.0)
_MONOLITH = "Monolith (arXiv 2209.07663), AUC on Criteo: 79.66% at 5 h, 79.78% at 1 h, 79.80% at 30 min between "


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Run the simulated world once for each interval, and the baskets once for all of theirs."""
    scenario = with_measured_time(QUICK if arguments.quick else FULL, arguments.seconds)
    intervals = {name: INTERVALS[name] for name in ("0.5 s", "5 s", NEVER)} if arguments.quick else INTERVALS
    worlds = arguments.worlds or 1
    runs = [
        Run(replace(scenario, seed=arguments.seed + world), MODEL, ((name, update_s),))
        for name, update_s in intervals.items()
        for world in range(worlds)
    ]
    notes = [_about(scenario, worlds)]
    validations = _basket_validation(arguments, notes)
    jobs: list[Any] = [*validations, *runs]
    results = run_all(jobs, console, processes=1 if arguments.quick else arguments.processes)
    rows = world_rows(list(intervals), results[len(validations) :], worlds)
    tables = {f"a simulated world, {MODEL}": rows}
    baskets = basket_rows(results[0]) if validations else []
    if baskets:
        tables[f"The Complete Journey, {BASKET_MODEL}"] = baskets
    notes.append(f"{_MONOLITH}updates of a model that learns online, 79.42 to 79.44% for one trained in batches")
    return Findings(tables, lambda: freshness_picture(rows, baskets), notes=notes)


def world_rows(names: Sequence[str], results: Sequence[dict[str, Rollout]], worlds: int) -> Rows:
    """Return the metrics at each interval, and its lift over no updates."""
    arms = {
        name: ArmResults.of([rollouts[name] for rollouts in results[place * worlds : (place + 1) * worlds]])
        for place, name in enumerate(names)
    }
    return [
        {
            "updates every": name,
            **interval_columns("CTR", arm.click_rate()),
            **interval_columns("lift over never", arm.lift(arms[NEVER])),
            **interval_columns("log loss, all", arm.loss()),
            **interval_columns("AUC, all", arm.auc()),
        }
        for name, arm in arms.items()
    ]


def basket_rows(result: ValidationScores) -> Rows:
    """Return the AUC at each interval, and its difference to no updates."""
    labels, users, never = result.labels, result.users, result.scores[NEVER]
    return [
        {
            "updates every": name,
            **interval_columns("AUC", clustered_auc(labels, scores, users)),
            **interval_columns("AUC more than never", auc_difference(labels, scores, never, users)),
            "samples": len(labels),
        }
        for name, scores in result.scores.items()
    ]


def _basket_validation(arguments: argparse.Namespace, notes: list[str]) -> list[ProgressiveValidation]:
    """Return the pass over the baskets as a job; nothing for a quick run or without data, and a note says so.

    Raises:
        DatasetError: when the folder of `--data` does not have the files.
    """
    if arguments.quick:
        notes.append("a quick run leaves the real baskets out: reading them alone takes longer")
        return []
    data: Path | None = arguments.data or (DATA if DATA.is_dir() else None)
    try:
        dataset = open_dataset("complete-journey", data, seed=arguments.seed)
    except DatasetError as error:
        if arguments.data:
            raise
        notes.append(f"no real baskets: {error}")
        return []
    notes.append(
        f"the baskets: intervals in event time; the first {WARM_UP:.0%} of the visits are for learning only; a basket "
        "is scored before it is learned from or becomes history; *more than never* is paired over users"
    )
    return [ProgressiveValidation(BASKET_MODEL, BASKET_INTERVALS, dataset, arguments.seed, arguments.visits)]


def _about(scenario: Scenario, worlds: int) -> str:
    world, minutes = scenario.world, scenario.measured_s / 60
    return (
        f"the world: {worlds} of {world.users} users, {scenario.rate:g} visits a second, {scenario.warm_up_s:g} s "
        f"with random items from which the model learns, then {minutes:.3g} minutes of virtual time; items live for "
        f"{world.lifetime_s:g} s, fashions change within {world.drift_s:g} s; the model learns every 0.5 s whatever "
        "the interval; confidence intervals are 95% over users, lifts paired; *all* is all candidates, shown or not"
    )
