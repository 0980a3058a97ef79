"""`lab arms`: what long histories and online updates bring. Each arm serves the same users in a copy of each world."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace
from rich.console import Console

from stream.experiment.statistics.intervals import Interval
from stream.experiment.wording import signed_percent
from stream.lab.engine import TICK_S, Rollout
from stream.lab.plots import arms_picture
from stream.lab.results import ArmResults
from stream.lab.runs import Run, run_all
from stream.lab.script import QUICK, Scenario, with_measured_time
from stream.report.findings import Findings, interval_columns

ONLINE = TICK_S
PAPER_LIFT = 0.0730
"""CTR lift of SAM in an online A/B test (Lin et al., CIKM 2022): for comparison, not measured here."""

RUNS: Mapping[str, tuple[tuple[str, float | None], ...]] = {
    "sam-1000": (("SAM-1000 frozen", None), ("SAM-1000 online", ONLINE)),
    "din-1000": (("DIN-1000 online", ONLINE),),
    "sam-50": (("SAM-50 online", ONLINE),),
    "mean-1000": (("average pooling", ONLINE),),
    "din-50": (("DIN-50 online", ONLINE),),
    "popularity": (("popularity", ONLINE),),
    "random": (("random", ONLINE),),
    "oracle": (("oracle", ONLINE),),
}
"""Model or baseline → its arms, as (name, seconds between updates); the slowest models first."""

ORDER = (
    "SAM-1000 online", "SAM-1000 frozen", "SAM-50 online", "DIN-1000 online", "DIN-50 online", "average pooling",
    "popularity", "random", "oracle",
)  # fmt: skip
_NO_PROBABILITY = ("random",)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms that differ in one property, and the question that their comparison answers."""

    question: str
    arm: str
    against: str


COMPARISONS = (
    Comparison("length", "SAM-1000 online", "SAM-50 online"),
    Comparison("length and attention", "SAM-1000 online", "DIN-50 online"),
    Comparison("freshness", "SAM-1000 online", "SAM-1000 frozen"),
)


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Run every arm in every world, and compare the arms."""
    scenario = with_measured_time(QUICK if arguments.quick else Scenario(), arguments.seconds)
    worlds = arguments.worlds or (1 if arguments.quick else 2)
    arms = combine(run_arms(scenario, arguments.seed, worlds, console, 1 if arguments.quick else arguments.processes))
    rows = [_row(name, arms[name], arms["random"]) for name in ORDER]
    answers = [_answer(comparison, arms, worlds) for comparison in COMPARISONS]
    return Findings(
        {"arms": rows, "answers: lift of the click rate": answers},
        lambda: arms_picture(rows, answers, PAPER_LIFT), notes=_notes(scenario, worlds),
    )  # fmt: skip


def run_arms(
    scenario: Scenario,
    seed: int,
    worlds: int,
    console: Console,
    processes: int,
    kinds: Mapping[str, tuple[tuple[str, float | None], ...]] = RUNS,
) -> list[dict[str, Rollout]]:
    """Return the rollout of each arm, for each world."""
    runs = [
        Run(replace(scenario, seed=seed + world), kind, variants)
        for kind, variants in kinds.items()
        for world in range(worlds)
    ]
    rollouts: list[dict[str, Rollout]] = [{} for _ in range(worlds)]
    for place, arms in enumerate(run_all(runs, console, processes=processes)):
        rollouts[place % worlds] |= arms
    return rollouts


def combine(worlds: list[dict[str, Rollout]]) -> dict[str, ArmResults]:
    """Return the results of each arm over all worlds."""
    return {name: ArmResults.of([world[name] for world in worlds]) for name in worlds[0]}


def _row(name: str, arm: ArmResults, random: ArmResults) -> dict[str, Any]:
    no_probability = name in _NO_PROBABILITY
    return {
        "arm": name,
        **interval_columns("CTR", arm.click_rate()),
        "over random": None if no_probability else arm.lift(random).value,
        **interval_columns("regret", arm.regret()),
        "log loss, shown": None if no_probability else arm.loss_shown().value,
        "log loss, all": None if no_probability else arm.loss().value,
        "AUC, all": arm.auc().value,
    }


def _answer(comparison: Comparison, arms: dict[str, ArmResults], worlds: int) -> dict[str, Any]:
    first, second = arms[comparison.arm], arms[comparison.against]
    lift: Interval = first.lift(second)
    each = ", ".join(signed_percent(first.lift(second, world).value, 1) for world in range(worlds))
    return {
        "question": comparison.question,
        "arm": comparison.arm,
        "against": comparison.against,
        **interval_columns("lift", lift),
        "in each world": each,
    }


def _notes(scenario: Scenario, worlds: int) -> list[str]:
    config = scenario.world
    return [
        f"{worlds} world(s) of {config.users} users with {config.history} behaviours each; {scenario.rate:g} visits a "
        f"second, {config.candidates} candidates, {scenario.slots} shown; {scenario.warm_up_s:g} s of virtual time "
        f"with random items, from which all models learn, then {scenario.measured_s:g} s that are measured",
        "confidence intervals are 95%, over users (delta method); those of lifts are paired: the same users had both "
        "arms, in copies of the same worlds",
        "regret is the share of the oracle's expected clicks that is missed; log loss and AUC of *all* are over all "
        "candidates, shown or not, and so are comparable between arms",
        f"for comparison: SAM had {signed_percent(PAPER_LIFT, 2)} CTR in an online A/B test (Lin et al., CIKM 2022); "
        "what is measured here is a simulated world, which was built to reward a long memory",
    ]
