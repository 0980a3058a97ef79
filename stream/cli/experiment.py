"""`samstream experiment`: what an experiment's file means, what is wrong with it, and how many users it needs."""

import argparse
from collections.abc import Iterator

import msgspec
from rich.console import Console
from rich.table import Table

from stream.experiment.plan import ExperimentPlan, read
from stream.experiment.power import required_sample_sizes
from stream.experiment.verdict import MIN_USERS
from stream.report.formatting import learning_words, model_words

_UNEVEN = 1.5


def run_experiment(arguments: argparse.Namespace) -> int:
    """Do what `arguments.action` says with `arguments.file`; returns the exit status."""
    experiment = read(arguments.file)
    if arguments.action == "settings":
        print(msgspec.json.format(msgspec.json.encode(experiment.settings()), indent=2).decode())
        return 0
    console = Console()
    console.print(_arms(experiment))
    for line in (*_meaning(experiment), *(f"note: {note}" for note in notes(experiment))):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def notes(experiment: ExperimentPlan) -> Iterator[str]:
    """Yield what is allowed and perhaps not meant."""
    arms = list(experiment.compared)
    mixed = [arm for arm in experiment.arms if arm.interleave and arm.share > 0]
    seen: dict[bytes, str] = {}
    for arm in arms:
        if not arm.learn:
            yield f"arm {arm.name} never learns: it keeps the parameters that it starts with"
        content = msgspec.json.encode((arm.settings().spec(), arm.learn, arm.learn_from, arm.optim))
        if twin := seen.get(content):
            yield f"arms {twin} and {arm.name} are alike: this is A against A, and should find nothing"
        seen.setdefault(content, arm.name)
    for arm in experiment.arms:
        if arm.share <= 0 and not any(arm.name in other.interleave for other in mixed):
            yield f"arm {arm.name} has no share: it answers nobody and is not compared"
    for arm in mixed:
        if model := next((each for each in experiment.arms if each.name in arm.interleave and each.share <= 0), None):
            yield f"arm {model.name} has no share: it answers only together with another, in {arm.name}"
    if len(arms) < 2:
        return
    need, _ = required_sample_sizes(experiment)
    even = msgspec.structs.replace(experiment, arms=tuple(msgspec.structs.replace(arm, share=1.0) for arm in arms))
    equal, _ = required_sample_sizes(even)
    if need.users > _UNEVEN * equal.users:
        least = min(arms, key=lambda arm: arm.share)
        yield (f"the share of {least.name} is small: with equal shares {_users(equal.users)} would be enough")
    smallest = min(experiment.shares[arm.name] for arm in arms)
    if need.users * smallest < MIN_USERS:
        yield f"there is no verdict before every arm has {MIN_USERS} users"


def _meaning(experiment: ExperimentPlan) -> Iterator[str]:
    crowd = experiment.crowd
    better = crowd.rate * (1 + experiment.minimum_effect)
    yield (
        f"Users are divided by XXH3 of '{experiment.salt}:ARM:USER'. The verdict may be looked at any time; it names a "
        f"winner among arms that are alike in at most {100 * experiment.alpha:g} of 100 experiments."
    )
    for arm in experiment.arms:
        if arm.interleave:
            yield f"Users of {arm.name} see lists that {' and '.join(arm.interleave)} have drafted in turn."
    if len(experiment.compared) < 2:
        return
    anytime, once = required_sample_sizes(experiment)
    yield (
        f"A lift of {100 * experiment.minimum_effect:g}% (click rate {100 * crowd.rate:.4g}% to {100 * better:.4g}%) "
        f"is found with probability {experiment.power:g} within {_users(anytime.users)} "
        f"({anytime.impressions:,} impressions). One look at the end would need {once.users:,}."
    )
    yield (
        f"Expected: click rate {crowd.rate:g}, {crowd.slots} items shown, {crowd.visits:g} impressions a user, "
        f"likeness of a user's items {crowd.icc:g}. No verdict depends on it."
    )


def _arms(experiment: ExperimentPlan) -> Table:
    table = Table("arm", "share", "model", "length", "learns", title=f"{experiment.name}: click rate of")
    for arm in experiment.arms:
        if arm.interleave:
            pair = " and ".join(arm.interleave)
            table.add_row(arm.name, f"{experiment.shares[arm.name]:.1%}", pair, "", "from what each placed")
            continue
        spec = arm.settings().spec()
        table.add_row(
            arm.name, f"{experiment.shares[arm.name]:.1%}", model_words(arm), f"{spec.length:,}", learning_words(arm)
        )
    return table


def _users(count: int) -> str:
    return f"{count:,} users"
