"""The report on a simulated experiment: results per arm, with the true click rates that only a simulation knows."""

from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain

import msgspec
import numpy as np
import numpy.typing as npt

from stream.experiment.guardrails.results import GuardrailResult
from stream.experiment.plan import Experiment
from stream.experiment.statistics.intervals import clustered_rate
from stream.experiment.timeline import Timeline, timeline
from stream.experiment.user_sums import UserSums
from stream.report.checks import checks
from stream.report.machine import this_machine
from stream.report.schema import (
    ArmResult,
    ArmTrace,
    ExperimentReport,
    RatePoint,
    Trace,
    arm_plans,
    p50_p99,
)
from stream.simulation.hashing import Floats
from stream.simulation.traffic import TrafficTotals
from stream.simulation.world import World, user_name

LATENCY_IS = "from an impression produced to its score received, as the simulated front end measures it"


def simulation_report(
    experiment: Experiment,
    totals: TrafficTotals,
    rates: Sequence[RatePoint],
    *,
    began: float,
    seconds: float,
    before: UserSums | None = None,
    settings: Mapping[str, str | int | float],
    guardrails: Sequence[GuardrailResult] = (),
    users: Container[str] | None = None,
) -> tuple[ExperimentReport, Trace]:
    """Return the report and the series behind its pictures.

    Args:
        experiment: its arms and how sure the answer shall be.
        totals: what the simulation counted.
        rates: of records over time.
        began: when the traffic began, seconds since the epoch.
        seconds: how long users came.
        before: what they did in the pre-experiment period, if there was one.
        settings: shown at the end of the page.
        guardrails: what the guardrails say.
        users: those whom the verdict is on, by name; None for all.
    """
    traces = {arm.name: ArmTrace() for arm in experiment.arms} | totals.traces()
    sums = sums_of_traces(traces, before, users)
    verdict = experiment.verdict(sums)
    last = 1000 * max(chain.from_iterable(trace.at for trace in traces.values()), default=0.0)
    spans = timeline(sums, verdict, minimum_effect=experiment.minimum_effect).between(0.0, last)
    report = ExperimentReport(
        name=experiment.name,
        source="simulated",
        began=datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        alpha=experiment.alpha,
        minimum_effect=experiment.minimum_effect,
        impressions=totals.impressions,
        scores=totals.answered,
        clicks=totals.clicks,
        behaviors=totals.behaviors,
        samples_trained=totals.trained,
        dead_letters=totals.dead_letters,
        latency_ms=p50_p99(list(chain.from_iterable(trace.latency for trace in traces.values()))),
        latency_is=LATENCY_IS,
        freshness_s=p50_p99([value for _, value in totals.freshness]),
        plan=arm_plans(experiment.arms, traces),
        arms={name: arm_result(trace) for name, trace in traces.items()},
        verdict=verdict,
        interleaving=experiment.preferences(totals.interleaving_votes, verdict),
        guardrails=list(guardrails),
        checks=checks(sums, verdict),
        over_time=with_truth(spans, traces),
        machine=this_machine(),
        settings=dict(settings),
    )
    latency = {name: list(zip(trace.at, trace.latency, strict=True)) for name, trace in traces.items()}
    return report, Trace(latency=latency, freshness=totals.freshness, rates=list(rates), arms=traces)


Arrays = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def arm_result(trace: ArmTrace) -> ArmResult:
    """Add up what happened to an arm of a simulation; rates are NaN when it showed nothing."""
    shown = sum(trace.shown)
    ctr = clustered_rate(*columns(trace))

    def per_item(values: list[float]) -> float:
        return sum(values) / shown if shown and values else float("nan")

    return ArmResult(
        users=len(set(trace.users)),
        impressions=len(trace.at),
        shown=shown,
        clicks=sum(trace.clicks),
        ctr=ctr.value,
        ctr_low=ctr.low,
        ctr_high=ctr.high,
        log_loss=per_item(trace.losses),
        log_loss_floor=per_item(trace.floor),
        ctr_best=per_item(trace.best),
        ctr_random=per_item(trace.random),
        regret=mean(regret_per_impression(trace)),
        latency_ms=p50_p99(trace.latency),
        cpu_s=mean(trace.cpu),
        timed=len(trace.latency),
        epoch=trace.epoch,
        version=trace.version,
    )


def sums_of_traces(
    traces: Mapping[str, ArmTrace], before: UserSums | None = None, users: Container[str] | None = None
) -> UserSums:
    """Return what simulated users did, with the pre-experiment period if there was one; times in ms since the start.

    Args:
        traces: of each arm.
        before: the pre-experiment period.
        users: those who count, by name; None for all.
    """
    sums = UserSums()
    if before is not None:
        sums.merge(before)
    for arm, trace in traces.items():
        counts = np.array([users is None or user_name(user) in users for user in trace.users], dtype=bool)
        names = [str(user) for user in np.array(trace.users)[counts]]
        shown, clicks, times = (np.array(each)[counts] for each in (trace.shown, trace.clicks, trace.at))
        sums.extend(arm, names, shown, clicks, 1000 * times)
    return sums


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return sum(values) / len(values) if len(values) else float("nan")


def columns(trace: ArmTrace) -> Arrays:
    """Return users, shown and clicks of a trace as arrays."""
    users, shown, clicks = (np.asarray(each, dtype=np.int64) for each in (trace.users, trace.shown, trace.clicks))
    return users, shown, clicks


def with_truth(spans: Timeline, traces: Mapping[str, ArmTrace]) -> Timeline:
    """Return the spans with what only a simulation knows: click rates of oracle and random, regret, least log loss."""
    edges = np.array(spans.edges)
    if len(edges) < 2:
        return spans
    edges[-1] += 1e-6
    shown = {name: _totals(trace, trace.shown, edges) for name, trace in traces.items()}
    everything = sum(shown.values(), np.zeros(len(edges) - 1))

    def level(column: str) -> list[float]:
        parts = (_totals(trace, getattr(trace, column), edges) for trace in traces.values())
        return _ratio(sum(parts, np.zeros(len(edges) - 1)), everything)

    def by_arm(column: str) -> dict[str, list[float]]:
        return {
            name: _ratio(_totals(trace, getattr(trace, column), edges), shown[name]) for name, trace in traces.items()
        }

    return msgspec.structs.replace(
        spans,
        best=level("best"),
        random=level("random"),
        regret={
            name: (
                np.cumsum(_totals(trace, regret_per_impression(trace), edges)) / max(1, len(set(trace.users)))
            ).tolist()
            for name, trace in traces.items()
        },
        log_loss=by_arm("losses"),
        log_loss_floor=by_arm("floor"),
    )


def regret_per_impression(trace: ArmTrace) -> list[float]:
    """Return, for each impression, the expected clicks of the oracle less those on what was shown."""
    return [best - expected for best, expected in zip(trace.best, trace.expected, strict=True)]


def _totals(trace: ArmTrace, values: Sequence[float], edges: Floats) -> Floats:
    totals: Floats = np.histogram(trace.at, edges, weights=values)[0].astype(np.float64)
    return totals


def _ratio(top: Floats, bottom: Floats) -> list[float]:
    ratio: list[float] = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0).tolist()
    return ratio


def simulate_pre_period(world: World, impressions: int, slots: int) -> UserSums:
    """Return what users were shown at random in `impressions` visits before the experiment, and clicked.

    It measures how much each user clicks without any arm, so it cannot depend on the user's arm: what CUPED requires of
    its covariate. All visits are at the world's start; nothing of them is sent to Kafka.
    """
    sums, users = UserSums(), world.visitors(impressions).tolist()
    shown, clicks = [], []
    for user in users:
        items = world.impression(user, world.start).items[:slots]  # they come shuffled
        shown.append(len(items))
        clicks.append(int(np.count_nonzero(world.clicks(user, items, world.start))))
    sums.add_before([str(user) for user in users], shown, clicks)
    return sums
