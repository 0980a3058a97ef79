"""`lab freshness`: what is lost when a model is updated less often, in a world and on real baskets.

The experiment is that of Monolith (Liu et al., arXiv 2209.07663), which learns from a stream and changes how
often the serving parameters follow.
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
from stream.lab.engine import Played
from stream.lab.journey import WARM_UP, Journey, Journeyed
from stream.lab.plots import freshness_picture
from stream.lab.results import Judged
from stream.lab.runs import Course, run_all
from stream.lab.script import Scenario, lasting
from stream.report.findings import LabFindings, Rows, limits
from stream.simulation.config import WorldConfig

MODEL, JOURNEY_MODEL = "din-50", "din-1000"
NEVER = "never"
INTERVALS: dict[str, float | None] = {
    "0.5 s": 0.5, "5 s": 5, "30 s": 30, "2 min": 120, "10 min": 600, NEVER: None,
}  # fmt: skip
"""Name → seconds of virtual time between updates of the world's model."""
JOURNEY_INTERVALS: dict[str, float | None] = {
    "1 hour": 3600, "1 day": 86_400, "1 week": 7 * 86_400, "4 weeks": 28 * 86_400, NEVER: None,
}  # fmt: skip
"""The same for the baskets, in the data's time."""
DATA = Path("../shared/data/complete_journey")
FULL = Scenario(rate=8.0, warm_up_s=300.0, measured_s=2400.0)
_QUICK = Scenario(
    world=WorldConfig(users=60, history=100, categories=12, items_per_category=10, interests=4, candidates=20),
    rate=4.0,
    warm_up_s=30.0,
    measured_s=30.0,
    slots=5,
)
_MONOLITH = "Monolith (arXiv 2209.07663), AUC on Criteo: 79.66% at 5 h, 79.78% at 1 h, 79.80% at 30 min between "


def run(arguments: argparse.Namespace, console: Console) -> LabFindings:
    """Go through the world once an interval, and once through the baskets for all of theirs."""
    scenario = lasting(_QUICK if arguments.quick else FULL, arguments.seconds)
    intervals = {name: INTERVALS[name] for name in ("0.5 s", "5 s", NEVER)} if arguments.quick else INTERVALS
    worlds = arguments.worlds or 1
    courses = [
        Course(replace(scenario, seed=arguments.seed + world), MODEL, ((name, update_s),))
        for name, update_s in intervals.items()
        for world in range(worlds)
    ]
    notes = [_about(scenario, worlds)]
    journeys = _journeys(arguments, notes)
    jobs: list[Any] = [*journeys, *courses]
    results = run_all(jobs, console, processes=1 if arguments.quick else arguments.processes)
    rows = world_rows(list(intervals), results[len(journeys) :], worlds)
    tables = {f"a simulated world, {MODEL}": rows}
    baskets = journey_rows(results[0]) if journeys else []
    if baskets:
        tables[f"The Complete Journey, {JOURNEY_MODEL}"] = baskets
    notes.append(f"{_MONOLITH}updates of a model that learns online, 79.42 to 79.44% for one trained in batches")
    return LabFindings(tables, notes, lambda: freshness_picture(rows, baskets))


def world_rows(names: Sequence[str], results: Sequence[dict[str, Played]], worlds: int) -> Rows:
    """Return what each interval reached, beside never."""
    arms = {
        name: Judged.of([played[name] for played in results[place * worlds : (place + 1) * worlds]])
        for place, name in enumerate(names)
    }
    return [
        {
            "updates every": name,
            **limits("CTR", arm.click_rate()),
            **limits("lift over never", arm.lift(arms[NEVER])),
            **limits("log loss, all", arm.loss()),
            **limits("AUC, all", arm.auc()),
        }
        for name, arm in arms.items()
    ]


def journey_rows(found: Journeyed) -> Rows:
    """Return the AUC at each interval, and what it has more than never."""
    labels, users, never = found.labels, found.users, found.scores[NEVER]
    return [
        {
            "updates every": name,
            **limits("AUC", clustered_auc(labels, scores, users)),
            **limits("AUC more than never", auc_difference(labels, scores, never, users)),
            "samples": len(labels),
        }
        for name, scores in found.scores.items()
    ]


def _journeys(arguments: argparse.Namespace, notes: list[str]) -> list[Journey]:
    """The pass over the baskets, unless it is to be quick, or there are no data; then a note says so.

    Raises:
        DatasetError: when a folder that was asked for has not the files.
    """
    if arguments.quick:
        notes.append("the quick run leaves the real baskets out: reading them alone takes longer")
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
        f"the baskets: intervals in the data's time; the first {WARM_UP:.0%} of the visits are only learned from; a "
        "basket is scored before anything of it is learned or becomes history; *more than never* is paired over users"
    )
    return [Journey(JOURNEY_MODEL, JOURNEY_INTERVALS, dataset, arguments.seed, arguments.visits)]


def _about(scenario: Scenario, worlds: int) -> str:
    world, minutes = scenario.world, scenario.measured_s / 60
    return (
        f"the world: {worlds} of {world.users} users, {scenario.rate:g} visits a second, {scenario.warm_up_s:g} s by "
        f"lot from which the model learns, then {minutes:.3g} minutes of virtual time; items live for "
        f"{world.lifetime_s:g} s, fashions come and go in {world.drift_s:g} s; learning goes on in steps of 0.5 s "
        "whatever the interval; all intervals are 95% over users, lifts paired; *all* is every candidate, shown or not"
    )
