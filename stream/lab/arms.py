"""`lab arms`: what length brings, what freshness brings. All arms meet the same people in twins of the same worlds."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace
from rich.console import Console

from stream.experiment.statistics.intervals import Interval
from stream.lab.engine import TICK_S, Played
from stream.lab.plots import arms_picture
from stream.lab.results import Judged
from stream.lab.runs import Course, run_all
from stream.lab.script import Scenario, lasting
from stream.report.findings import LabFindings, limits
from stream.simulation.config import WorldConfig

ONLINE = TICK_S
PAPER = 0.0730
"""Lift of CTR that SAM brought online in a real system (Lin et al., CIKM 2022): an anchor, nothing measured here."""

COURSES: Mapping[str, tuple[tuple[str, float | None], ...]] = {
    "sam-1000": (("SAM-1000 frozen", None), ("SAM-1000 online", ONLINE)),
    "din-1000": (("DIN-1000 online", ONLINE),),
    "sam-50": (("SAM-50 online", ONLINE),),
    "mean-1000": (("average pooling", ONLINE),),
    "din-50": (("DIN-50 online", ONLINE),),
    "popularity": (("popularity", ONLINE),),
    "random": (("random", ONLINE),),
    "oracle": (("oracle", ONLINE),),
}
"""Model or baseline → its arms, and how often each is updated; the dearest first."""

ORDER = (
    "SAM-1000 online", "SAM-1000 frozen", "SAM-50 online", "DIN-1000 online", "DIN-50 online", "average pooling",
    "popularity", "random", "oracle",
)  # fmt: skip
_NO_PROBABILITY = ("random",)
_QUICK = Scenario(
    world=WorldConfig(users=60, history=200, categories=12, items_per_category=10, interests=4, candidates=20),
    rate=4.0,
    warm_up_s=30.0,
    measured_s=20.0,
    slots=5,
)


@dataclass(frozen=True, slots=True)
class Question:
    """Two arms that differ in one thing."""

    asks: str
    arm: str
    against: str


QUESTIONS = (
    Question("length", "SAM-1000 online", "SAM-50 online"),
    Question("length and attention", "SAM-1000 online", "DIN-50 online"),
    Question("freshness", "SAM-1000 online", "SAM-1000 frozen"),
)


def run(arguments: argparse.Namespace, console: Console) -> LabFindings:
    """Play every arm in every world, and compare."""
    scenario = lasting(_QUICK if arguments.quick else Scenario(), arguments.seconds)
    worlds = arguments.worlds or (1 if arguments.quick else 2)
    arms = judge(play(scenario, arguments.seed, worlds, console, 1 if arguments.quick else arguments.processes))
    rows = [_row(name, arms[name], arms["random"]) for name in ORDER]
    answers = [_answer(question, arms, worlds) for question in QUESTIONS]
    return LabFindings(
        {"arms": rows, "answers: lift of the click rate": answers}, _notes(scenario, worlds),
        lambda: arms_picture(rows, answers, PAPER),
    )  # fmt: skip


def play(
    scenario: Scenario,
    seed: int,
    worlds: int,
    console: Console,
    processes: int,
    kinds: Mapping[str, tuple[tuple[str, float | None], ...]] = COURSES,
) -> list[dict[str, Played]]:
    """Return of each world what came of each arm."""
    courses = [
        Course(replace(scenario, seed=seed + world), kind, variants)
        for kind, variants in kinds.items()
        for world in range(worlds)
    ]
    played: list[dict[str, Played]] = [{} for _ in range(worlds)]
    for place, arms in enumerate(run_all(courses, console, processes=processes)):
        played[place % worlds] |= arms
    return played


def judge(worlds: list[dict[str, Played]]) -> dict[str, Judged]:
    """Put the worlds of each arm together."""
    return {name: Judged.of([world[name] for world in worlds]) for name in worlds[0]}


def _row(name: str, arm: Judged, random: Judged) -> dict[str, Any]:
    blind = name in _NO_PROBABILITY
    return {
        "arm": name,
        **limits("CTR", arm.click_rate()),
        "over random": None if blind else arm.lift(random).value,
        **limits("regret", arm.regret()),
        "log loss, shown": None if blind else arm.loss_shown().value,
        "log loss, all": None if blind else arm.loss().value,
        "AUC, all": arm.auc().value,
    }


def _answer(question: Question, arms: dict[str, Judged], worlds: int) -> dict[str, Any]:
    first, second = arms[question.arm], arms[question.against]
    lift: Interval = first.lift(second)
    each = ", ".join(f"{100 * first.lift(second, world).value:+.1f}%" for world in range(worlds))
    return {
        "question": question.asks,
        "arm": question.arm,
        "against": question.against,
        **limits("lift", lift),
        "in each world": each,
    }


def _notes(scenario: Scenario, worlds: int) -> list[str]:
    config = scenario.world
    return [
        f"{worlds} world(s) of {config.users} users with {config.history} behaviours each; {scenario.rate:g} visits a "
        f"second, {config.candidates} candidates, {scenario.slots} shown; {scenario.warm_up_s:g} s of virtual time by "
        f"lot, from which all models learn, then {scenario.measured_s:g} s that count",
        "intervals are 95%, over users (delta method); those of lifts are paired: the same users had both arms, in "
        "twins of the same worlds, and the covariance of their two click rates is taken out",
        "regret is the share of the oracle's expected clicks that is missed; log loss and AUC of *all* are over every "
        "candidate, shown or not, whose outcome the world knows, and so are comparable between arms",
        f"anchor: SAM brought {100 * PAPER:+.2f}% CTR online in a real system (Lin et al., CIKM 2022); what is "
        "measured here is a simulation, whose world was made to reward a long memory",
    ]
