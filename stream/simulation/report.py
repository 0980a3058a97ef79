"""From what a simulation has seen to the report on its experiment."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain

from stream.experiment.user_sums import UserSums
from stream.report.checks import checks
from stream.report.machine import arm_result, plan_of, spread, this_machine, user_sums
from stream.report.question import Question
from stream.report.schema import ArmTrace, ExperimentReport, RatePoint, Trace
from stream.report.series import over_time, with_truth
from stream.simulation.traffic import Tally

LATENCY_IS = "from an impression produced to its score received, as the simulated front end measures it"


def simulation_report(
    question: Question,
    tally: Tally,
    rates: Sequence[RatePoint],
    *,
    began: float,
    seconds: float,
    before: UserSums | None = None,
    settings: Mapping[str, str | int | float],
) -> tuple[ExperimentReport, Trace]:
    """Return the report and the series behind its pictures.

    Args:
        question: what was asked.
        tally: what was seen.
        rates: of records over time.
        began: when the traffic began, seconds since the epoch.
        seconds: how long users came.
        before: what they did before, if that is known.
        settings: for the small print.
    """
    traces = {arm.name: ArmTrace() for arm in question.arms} | tally.traces()
    sums = user_sums(traces, before)
    verdict = question.verdict(sums)
    last = 1000 * max(chain.from_iterable(trace.at for trace in traces.values()), default=0.0)
    spans = over_time(sums, verdict, minimum_effect=question.minimum_effect, first=0.0, last=last)
    report = ExperimentReport(
        name=question.name,
        source="simulated",
        began=datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        alpha=question.alpha,
        minimum_effect=question.minimum_effect,
        impressions=tally.impressions,
        scores=tally.answered,
        clicks=tally.clicks,
        behaviors=tally.behaviors,
        samples_trained=tally.trained,
        dead_letters=tally.dead_letters,
        latency_ms=spread(list(chain.from_iterable(trace.latency for trace in traces.values()))),
        latency_is=LATENCY_IS,
        freshness_s=spread([value for _, value in tally.freshness]),
        plan=plan_of(question.arms, traces),
        arms={name: arm_result(trace) for name, trace in traces.items()},
        verdict=verdict,
        interleaving=question.preferences(tally.ballots, verdict),
        checks=checks(sums, verdict),
        over_time=with_truth(spans, traces),
        machine=this_machine(),
        settings=dict(settings),
    )
    latency = {name: list(zip(trace.at, trace.latency, strict=True)) for name, trace in traces.items()}
    return report, Trace(latency=latency, freshness=tally.freshness, rates=list(rates), arms=traces)
