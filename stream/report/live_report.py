"""The report on live traffic, from outcomes and scores; true click rates are unknown there."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import numpy as np

from stream.experiment.assignment import Assignment
from stream.experiment.guardrails.counts import GuardrailCounts
from stream.experiment.ledger import Ledger, ReadSummary
from stream.experiment.plan import Experiment
from stream.experiment.serving_cost import ServingCosts
from stream.experiment.statistics.effect import CLICKS, SHOWN, click_rate
from stream.experiment.statistics.intervals import normal_interval
from stream.experiment.timeline import timeline
from stream.experiment.weighted_rates import WeightedRates
from stream.report.checks import checks
from stream.report.formatting import percent
from stream.report.machine import this_machine
from stream.report.schema import ArmResult, Check, ExperimentReport, Percentiles, Trace, arm_plans, p50_p99
from stream.runtime.timestamps import time_words

LATENCY_IS = (
    "what the worker states for each answer: from the impression's Kafka timestamp until it was scored. Delivery of "
    "the answer to the client is not included"
)
_POINTS = 20_000
_NAN = float("nan")
_UNKNOWN = Percentiles(_NAN, _NAN)


def live_report(
    experiment: Experiment,
    ledger: Ledger,
    answers: ServingCosts,
    found: ReadSummary,
    *,
    salt: str,
    settings: Mapping[str, str | int | float],
    guardrails: GuardrailCounts | None = None,
    before_step: Assignment | None = None,
    weighted: WeightedRates | None = None,
) -> tuple[ExperimentReport, Trace]:
    """Return the report and the series behind its pictures.

    Args:
        experiment: its arms are reported, others left out.
        ledger: the outcomes.
        answers: the answers in the same time, those that Kafka still has.
        found: what reading met.
        salt: of the experiment.
        settings: for the small print.
        guardrails: what the experiment's guardrails are judged on; None leaves them out.
        before_step: the assignment before the ramp's step with which the report begins.
        weighted: all users of a bandit, weighted; the ledger has those who explore. None without a bandit.
    """
    sums = ledger.sums
    verdict = experiment.verdict_on_own_arms(sums)
    seen = ledger.last >= ledger.first
    first, last = (ledger.first, ledger.last) if seen else (0.0, 0.0)
    arms = {name: _arm(name, ledger, answers) for name in experiment.shares}
    report = ExperimentReport(
        name=experiment.name,
        source="live",
        began=datetime.fromtimestamp(first / 1000, UTC).isoformat(timespec="seconds") if seen else "",
        seconds=(last - first) / 1000,
        alpha=experiment.alpha,
        minimum_effect=experiment.minimum_effect,
        impressions=sum(arm.impressions for arm in arms.values()),
        scores=sum(arm.timed for arm in arms.values()),
        clicks=sum(arm.clicks for arm in arms.values()),
        latency_ms=p50_p99(np.concatenate([answers.arms[name].latencies() for name in arms])),
        latency_is=LATENCY_IS,
        freshness_s=_UNKNOWN,
        plan=arm_plans(experiment.arms),
        arms=arms,
        verdict=verdict,
        interleaving=experiment.preferences(ledger.interleaving_votes, verdict),
        guardrails=experiment.guardrail_results(guardrails, sums) if guardrails else [],
        checks=[
            *checks(sums, verdict),
            _assigned(ledger, Assignment(experiment.shares, salt=salt), arms),
            *_moved(ledger, before_step, arms),
            *_all_users(experiment, ledger, weighted),
            *_others(ledger, arms),
            _complete(ledger, found),
        ],
        over_time=timeline(sums, verdict, minimum_effect=experiment.minimum_effect).between(first, last),
        machine=this_machine(),
        settings=dict(settings),
    )
    latency = {name: answers.arms[name].sample(_POINTS, first=first) for name in arms}
    return report, Trace(latency=latency)


def _arm(name: str, ledger: Ledger, answers: ServingCosts) -> ArmResult:
    moments, count, times = ledger.sums.moments(name), ledger.arms[name], answers.arms[name]
    ctr = normal_interval(click_rate(moments))
    return ArmResult(
        users=int(moments.count),
        impressions=count.impressions,
        shown=int(moments.total[SHOWN]),
        clicks=int(moments.total[CLICKS]),
        ctr=ctr.value,
        ctr_low=ctr.low,
        ctr_high=ctr.high,
        log_loss=count.loss / count.shown if count.shown else _NAN,
        log_loss_floor=_NAN,
        ctr_best=_NAN,
        ctr_random=_NAN,
        regret=_NAN,
        latency_ms=p50_p99(times.latencies()),
        cpu_s=times.cpu_ms,
        timed=len(times.at),
        epoch=count.newest[0],
        version=count.newest[1],
    )


def _assigned(ledger: Ledger, assignment: Assignment, arms: Iterable[str]) -> Check:
    question = "Is every user in the arm that the file says?"
    users = [(user, name) for name in arms for user in ledger.sums.users(name)]
    if wrong := sum(assignment.arm(user) != name for user, name in users):
        return Check(
            "assigned",
            question,
            f"No: {wrong:,} of {len(users):,} users ({percent(wrong / len(users))}) are in another one. "
            "The workers ran with another salt, other arms or other shares than the file has.",
            "note",
        )
    return Check("assigned", question, "Yes." if users else "There were no users.", "fine" if users else "unknown")


def _moved(ledger: Ledger, before: Assignment | None, arms: Iterable[str]) -> list[Check]:
    if before is None:
        return []
    users = [(user, name) for name in arms for user in ledger.sums.users(name)]
    moved = sum(before.arm(user) != name for user, name in users)
    answer = (
        f"Yes: {moved:,} of {len(users):,} users ({percent(moved / len(users))}) were in another arm until then. They"
        " count in the arm that they are in now, and what was before does not count; it may still tell."
        if moved
        else "No."
    )
    return [Check("ramp", "Did the last step of the ramp move users?", answer, "note" if moved else "fine")]


def _all_users(experiment: Experiment, ledger: Ledger, weighted: WeightedRates | None) -> list[Check]:
    if weighted is None:
        return []
    question = "What do all users say, each weighted by the probability of their arm?"
    explorers = sum(len(ledger.sums.users(arm)) for arm in ledger.sums.arms)
    rates = weighted.rates(alpha=experiment.alpha, minimum_effect=experiment.minimum_effect)
    said = ", ".join(
        f"{arm} {100 * value:.2f}% ({100 * low:.2f}% to {100 * high:.2f}%)" for arm, (value, low, high) in rates.items()
    )
    answer = (
        f"Click rates {said or 'are not known yet: too few users or clicks'}, with any-time intervals. The verdict is"
        f" on the {explorers:,} who explore, of {weighted.users:,}: their shares never change."
    )
    return [Check("bandit", question, answer, "fine" if said else "unknown")]


def _others(ledger: Ledger, arms: Mapping[str, ArmResult]) -> list[Check]:
    others = {name: count.impressions for name, count in ledger.arms.items() if name not in arms and count.impressions}
    if not others:
        return []
    said = ", ".join(f"{name} {impressions:,}" for name, impressions in sorted(others.items()))
    answer = f"Yes: {said} impressions, which are not compared. Give --since the time at which this experiment began."
    return [Check("others", "Were there arms that the file does not know?", answer, "note")]


def _complete(ledger: Ledger, found: ReadSummary) -> Check:
    question = "Is anything missing?"
    counted = (
        f"Outcomes that were written twice counted once ({ledger.repeated:,} items). Requests whose window was "
        f"still open are left out ({ledger.open:,} with clicks)."
    )
    if found.erased:
        counted += f" {found.erased:,} outcomes of users who were erased since are left out."
    if found.unreadable:
        counted += f" {found.unreadable:,} records could not be read."
    if not found.truncated_partitions and not found.missing:
        return Check("complete", question, f"No. {counted}", "note" if found.unreadable else "fine")
    return Check("complete", question, f"{missing_words(found)} {counted}", "note")


def missing_words(found: ReadSummary) -> str:
    """Say what Kafka's retention has removed, or may have."""
    missing = f"Yes: Kafka removed {found.missing:,} records while they were read." if found.missing else ""
    if not found.truncated_partitions:
        return missing
    since = f" From {time_words(found.complete_from)} on everything is there." if found.complete_from else ""
    perhaps = (
        f"Perhaps: Kafka has removed older outcomes from {found.truncated_partitions} of {found.partitions} "
        f"partitions, as their retention says.{since}"
    )
    return f"{missing} {perhaps}".lstrip()
