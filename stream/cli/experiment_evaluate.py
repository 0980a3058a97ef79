"""`samstream experiment evaluate`: which click rate an arm would have that was only scored, never shown."""

import argparse
import sys
import time
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from stream.cli.experiment_report import add_times, check_order, in_stage, read_traffic
from stream.cli.options import Commands, add_settings_command, load_settings
from stream.errors import ExperimentError
from stream.kafka.clients import check_connection
from stream.runtime.timestamps import parse_time
from stream.schema.topics import Topics

if TYPE_CHECKING:
    from stream.experiment.off_policy import OffPolicyEstimate


def add_parser(actions: Commands) -> argparse.ArgumentParser:
    """Add `experiment evaluate`, without the experiment's file."""
    text = "estimate from live traffic the click rate of arms that were only scored (IPS, SNIPS, doubly robust)"
    parser = add_settings_command(actions, "evaluate", run, text)
    text = "which arm; repeatable (default: all with shadow = true)"
    parser.add_argument("--arm", action="append", default=[], metavar="NAME", help=text)
    text = "what a click may depend on beside user and item: nothing, its place, or all that is shown"
    parser.add_argument("--clicks", choices=("item", "item-position", "slate"), default="item-position", help=text)
    parser.add_argument("--clip", type=float, default=float("inf"), metavar="W", help="largest weight (default: none)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_times(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the estimates; returns the exit status, 1 when one of the click rates is not identified.

    Raises:
        ExperimentError: when there is no such arm, nothing to compare it with, or users are not divided as planned.
    """
    from stream.experiment.ledger import Ledger
    from stream.experiment.off_policy import off_policy_estimate
    from stream.experiment.plan import Experiment, read
    from stream.experiment.serving_cost import ServingCosts
    from stream.experiment.shadow_log import ShadowLog
    from stream.experiment.verdict import SRM_ALPHA

    settings, plan = load_settings(arguments), read(arguments.file)
    names = [arm.name for arm in plan.arms if not arm.interleave]
    wanted = arguments.arm or [arm.name for arm in plan.arms if arm.shadow]
    if unknown := set(wanted) - set(names):
        raise ExperimentError(f"--arm {min(unknown)}: the arms with a model are {', '.join(names)}")
    if not wanted:
        raise ExperimentError(f"{arguments.file} has no arm with shadow = true: nothing was scored without being shown")
    if not arguments.clip > 0:
        raise ExperimentError(f"--clip {arguments.clip:g}: the largest weight is above 0")
    now = time.time()
    since, until = (None if text is None else parse_time(text, now=now) for text in (arguments.since, arguments.until))
    plan, since, _ = in_stage(plan, since, until, now=now)
    check_order(since, until)
    check_connection(settings.kafka)
    ledger, log = Ledger(since=since, until=until, users=plan.explorers), ShadowLog()
    ledger.on_counted = log.add_counted
    read_traffic(
        settings.kafka,
        Topics(settings.topics.prefix),
        ledger,
        ServingCosts(),
        begin=None if since is None else max(0, since - round(1000 * settings.worker.max_future_s)),
        on_missing=settings.topics.on_missing_records,
        on_score=log.add_score,
    )
    experiment, sums = Experiment.of(plan), ledger.sums
    verdict = experiment.verdict_on_own_arms(sums)
    if verdict.mismatch_p <= SRM_ALPHA:
        raise ExperimentError(
            f"users are not divided as the shares say (p = {verdict.mismatch_p:.2g}), so propensities are unknown:"
            " give --since the time since which the file's shares are in force"
        )
    shares = {arm.name: arm.share for arm in plan.compared}
    # With a bandit, users who were moved count as well: each impression by the probabilities of its own time.
    users = None if plan.bandit.on else {user for name in shares for user in sums.users(name)}
    impressions, console = log.impressions(), Console()
    if log.without_score:
        print(f"note: {log.without_score:,} requests have outcomes and no score: left out", file=sys.stderr)
    found, refused = [], []
    for name in wanted:
        try:
            estimate = off_policy_estimate(
                impressions,
                name,
                shares,
                alpha=plan.alpha,
                minimum_effect=plan.minimum_effect,
                click_model=arguments.clicks,
                clip=arguments.clip,
                users=users,
            )
        except ExperimentError as error:
            refused.append(f"{name}: no estimate: {error}")
            continue
        found.append(estimate)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        for estimate in found:
            console.print(_words(estimate), highlight=False, markup=False, soft_wrap=True)
    for line in refused:
        print(line, file=sys.stderr)
    return 1 if refused else 0


def _words(estimate: "OffPolicyEstimate") -> str:
    rates = ", ".join(
        f"{name} {100 * value:.2f}% ({100 * low:.2f}% to {100 * high:.2f}%)"
        for name, (value, low, high) in (
            ("IPS", estimate.ips),
            ("SNIPS", estimate.snips),
            ("doubly robust", estimate.doubly_robust),
        )
    )
    return (
        f"{estimate.arm}: click rate by {rates}, any time; {estimate.impressions:,} impressions of {estimate.users:,}"
        f" users (worth {estimate.effective_users:,.0f}), {estimate.matched_clicks:,} clicks on what it would show,"
        f" {estimate.unsupported:.1%} without support, largest weight {estimate.largest_weight:.3g},"
        f" {estimate.clipped:.1%} clipped, {estimate.incomplete:,} impressions incomplete"
    )
