"""`lab position`: what a model gains that is told the places of what was shown, where people look at the first most."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from rich.console import Console

from stream.experiment.wording import signed_percent
from stream.lab.engine import TICK_S
from stream.lab.plots import position_picture
from stream.lab.results import ArmResults
from stream.lab.runs import Run, run_all
from stream.lab.script import QUICK, Scenario, with_measured_time
from stream.report.findings import Findings, Rows, interval_columns
from stream.simulation.config import with_changes

ARMS = {"not told": "din-50", "told": "din-50:position=true"}
"""Name → model; both are the cheapest of those that read histories."""
BASELINES = ("random", "oracle")
BIAS = "position_bias=1"
"""Of the world, unless it is changed: the tenth place is looked at a tenth as often as the first."""
WARM_UPS_S: Mapping[str, float] = {"5 minutes of random lists": 300.0, "10 seconds of random lists": 10.0}
"""What comes first → for how long: what models learn of places where no model has chosen them, or hardly anything."""


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Let both arms serve the same worlds, with and without a log of random lists before."""
    scenario = with_measured_time(QUICK if arguments.quick else Scenario(), arguments.seconds)
    world = with_changes(scenario.world, [BIAS, *arguments.world])
    worlds = arguments.worlds or (1 if arguments.quick else 4)
    scenarios = {
        name: replace(scenario, world=world, warm_up_s=min(seconds, scenario.warm_up_s))
        for name, seconds in WARM_UPS_S.items()
    }
    kinds = ARMS | {name: name for name in BASELINES}
    runs = {
        (begin, arm, number): Run(replace(each, seed=arguments.seed + number), kind, ((arm, TICK_S),))
        for begin, each in scenarios.items()
        for arm, kind in kinds.items()
        for number in range(worlds)
    }
    done = run_all(list(runs.values()), console, processes=1 if arguments.quick else arguments.processes)
    rollouts = {key: found[key[1]] for key, found in zip(runs, done, strict=True)}
    tables = {}
    for begin in scenarios:
        arms = {arm: ArmResults.of([rollouts[begin, arm, number] for number in range(worlds)]) for arm in kinds}
        tables[f"after {begin}"] = rows_of(arms, worlds)
    notes = [
        f"{worlds} world(s) of {world.users} users, position_bias={world.position_bias:g}; {scenario.rate:g} visits a"
        f" second, {scenario.slots} of {world.candidates} shown; {scenario.measured_s:g} s of virtual time that are"
        " measured, in which each arm shows what it ranks best and learns from that",
        "the same users, candidates, likes and looks in all arms; intervals are 95%, over users; lifts are paired",
        "AUC: of all candidates, shown or not, by whether they are clicked when looked at",
    ]
    return Findings(tables, lambda: position_picture(tables), notes=notes)


def rows_of(arms: Mapping[str, ArmResults], worlds: int) -> Rows:
    """Return the metrics of each arm, and its lift over the one that is not told."""
    blind = arms["not told"]
    return [
        {
            "arm": f"{ARMS['not told']}, {name}" if name in ARMS else name,
            **interval_columns("CTR", arm.click_rate()),
            **interval_columns("lift", arm.lift(blind)),
            "lift in each world": _in_each(arm, blind, range(worlds)),
            **interval_columns("regret", arm.regret()),
            "AUC, all": arm.auc().value,
        }
        for name, arm in arms.items()
    ]


def _in_each(arm: ArmResults, other: ArmResults, worlds: Sequence[int]) -> str:
    found: list[Any] = [arm.lift(other, world).value for world in worlds]
    return ", ".join(signed_percent(each, 1) for each in found)
