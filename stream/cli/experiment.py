"""`samstream experiment`: checks an experiment's file, and says how many users it needs."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table

from stream.cli import experiment_evaluate, experiment_report, simulate
from stream.cli.options import Commands, add_command
from stream.runtime.timestamps import time_words

if TYPE_CHECKING:
    from stream.experiment.plan import ExperimentPlan

_UNEVEN = 1.5


def add_parser(commands: Commands) -> None:
    """Add the command and its actions: check, settings, run, report, evaluate."""
    text = "check an experiment's file, run it with simulated users, or report on live traffic"
    parser = commands.add_parser("experiment", help=text, description=text[0].upper() + text[1:] + ".")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "say what the file means, what is wrong with it, and how many users it needs"
    for action in (
        add_command(actions, "check", run_check, text),
        add_command(actions, "settings", run_settings, "print its salt and arms, as settings for --config"),
        simulate.add_experiment_parser(actions),
        experiment_report.add_parser(actions),
        experiment_evaluate.add_parser(actions),
    ):
        action.add_argument("file", type=Path, metavar="FILE", help="the experiment, such as experiment.toml")


def run_settings(arguments: argparse.Namespace) -> int:
    """Print the settings of `arguments.file`; returns the exit status."""
    from stream.experiment.plan import read

    settings = read(arguments.file).settings()
    print(msgspec.json.format(msgspec.json.encode(settings), indent=2).decode())
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Print what `arguments.file` means; returns the exit status."""
    from stream.experiment.plan import read

    plan = read(arguments.file)
    experiment = plan.ramped
    console = Console()
    console.print(_arms_table(experiment))
    for line in (*_steps(plan), *_description(experiment), *(f"note: {note}" for note in notes(experiment))):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def notes(experiment: "ExperimentPlan") -> Iterator[str]:
    """Yield what is allowed but may not be intended."""
    from stream.experiment.power import required_sample_sizes
    from stream.experiment.verdict import MIN_USERS

    arms = list(experiment.compared)
    mixed = [arm for arm in experiment.arms if arm.interleave and arm.share > 0]
    seen: dict[bytes, str] = {}
    for arm in arms:
        if not arm.learn:
            yield f"arm {arm.name} never learns: it keeps its initial parameters"
        content = msgspec.json.encode((arm.settings().spec(), arm.features, arm.learn, arm.learn_from, arm.optim))
        if same := seen.get(content):
            yield f"arms {same} and {arm.name} are identical: this is an A/A test, and should find no difference"
        seen.setdefault(content, arm.name)
    for arm in experiment.arms:
        if arm.shadow and arm.share <= 0 and arm.learn and arm.learn_from == "own":
            yield f'arm {arm.name} is a shadow without users: it learns nothing unless learn_from = "all"'
        if arm.share <= 0 and not arm.shadow and not any(arm.name in other.interleave for other in mixed):
            yield f"arm {arm.name} has no share: it serves no users and is not compared"
    for arm in mixed:
        if model := next((each for each in experiment.arms if each.name in arm.interleave and each.share <= 0), None):
            yield f"arm {model.name} has no share: it serves only interleaved lists, in {arm.name}"
    if len(arms) < 2:
        return
    need, _ = required_sample_sizes(experiment)
    even = msgspec.structs.replace(experiment, arms=tuple(msgspec.structs.replace(arm, share=1.0) for arm in arms))
    equal, _ = required_sample_sizes(even)
    if need.users > _UNEVEN * equal.users:
        least = min(arms, key=lambda arm: arm.share)
        yield f"the share of {least.name} is small: with equal shares {_users(equal.users)} would be enough"
    smallest = min(experiment.shares[arm.name] for arm in arms)
    if need.users * smallest < MIN_USERS:
        yield f"there is no verdict before every arm has {MIN_USERS} users"


def _steps(plan: "ExperimentPlan") -> Iterator[str]:
    for stage in plan.stages if plan.ramp else ():
        total = sum(stage.shares.values())
        shares = ", ".join(f"{name} {share / total:.1%}" for name, share in stage.shares.items())
        yield f"{'At first' if math.isinf(stage.begin) else f'From {time_words(round(stage.begin))}'}: {shares}."
    if plan.ramp:
        yield "The table and the numbers of users are for the last step; a report counts from its last step on."


def _description(experiment: "ExperimentPlan") -> Iterator[str]:
    from stream.experiment.power import required_sample_sizes

    crowd = experiment.crowd
    better = crowd.rate * (1 + experiment.minimum_effect)
    yield (
        f"Users are assigned to arms by the XXH3 hash of '{experiment.salt}:ARM:USER'. The verdict is valid at any "
        f"time: among identical arms it names a winner in at most {100 * experiment.alpha:g} of 100 experiments."
    )
    for arm in experiment.arms:
        if arm.interleave:
            pair = " and ".join(arm.interleave)
            yield f"Users of {arm.name} see lists interleaved from those of {pair} (team draft)."
    for guardrail in experiment.guardrails:
        yield f"Guardrail: {guardrail.name}, {guardrail.limit_words}."
    if shadows := [arm.name for arm in experiment.arms if arm.shadow]:
        yield f"Scored for every impression, without being shown (shadow): {', '.join(shadows)}."
    if len(experiment.compared) < 2:
        return
    anytime, once = required_sample_sizes(experiment)
    if (bandit := experiment.bandit).on:
        yield (
            f"A bandit: {bandit.explore:.0%} of the users explore, by these shares for good. The verdict is on them, so"
            f" {_users(math.ceil(anytime.users / bandit.explore))} in all are needed for the numbers below. The others"
            f" are divided by its shares, at least {bandit.floor:.0%} an arm, which hold for {bandit.every_s:g} s or"
            " longer."
        )
    yield (
        f"A lift of {100 * experiment.minimum_effect:g}% (click rate {100 * crowd.rate:.4g}% to {100 * better:.4g}%) "
        f"is found with probability {experiment.power:g} within {_users(anytime.users)} "
        f"({anytime.impressions:,} impressions). A single analysis at the end would need {once.users:,}."
    )
    yield (
        f"Assumed: click rate {crowd.rate:g}, {crowd.slots} items an impression, {crowd.visits:g} impressions a user, "
        f"intraclass correlation of a user's clicks {crowd.icc:g}. The verdict does not depend on these."
    )


def _arms_table(experiment: "ExperimentPlan") -> Table:
    from stream.report.formatting import learning_words, model_words

    table = Table("arm", "share", "model", "length", "learns", title=f"{experiment.name}: click rate of")
    for arm in experiment.arms:
        if arm.interleave:
            pair = " and ".join(arm.interleave)
            table.add_row(arm.name, f"{experiment.shares[arm.name]:.1%}", pair, "", "from the items that each placed")
            continue
        spec = arm.settings().spec()
        table.add_row(
            arm.name, f"{experiment.shares[arm.name]:.1%}", model_words(arm), f"{spec.length:,}", learning_words(arm)
        )
    return table


def _users(count: int) -> str:
    return f"{count:,} users"
