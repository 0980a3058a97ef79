"""An experiment in spans of time: what the pictures over time show, from sums over users and, if known, the truth."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from stream.experiment.statistics.confidence_sequence import spread_for
from stream.experiment.statistics.effect import Effect, Estimate, click_rate, compare
from stream.experiment.statistics.intervals import one_look
from stream.experiment.user_sums import UserSums
from stream.experiment.verdict import Verdict, intervals
from stream.report.schema import ArmTrace, OverTime

Floats = npt.NDArray[np.float64]


def over_time(sums: UserSums, verdict: Verdict, *, minimum_effect: float, first: float, last: float) -> OverTime:
    """Return the spans of the experiment, with the lift as the verdict would have had it at the end of each.

    Args:
        sums: what users did, times in ms.
        verdict: on these sums; it says which arm leads.
        minimum_effect: as given to the verdict.
        first: time of the first impression, ms.
        last: time of the last one, ms.
    """
    spans = _whole(sums.edges, first, last)
    edges = np.clip(np.array(spans, dtype=np.float64), first, last)
    arms = [arm for arm in verdict.users if arm in sums.arms]
    leader = verdict.pairs[0].arm if verdict.pairs else ""
    against = [
        name for pair in verdict.pairs if leader in (pair.arm, pair.against) for name in (pair.arm, pair.against)
    ]
    alpha = verdict.alpha / max(1, math.comb(len(verdict.users), 2))
    spread = spread_for(math.log1p(minimum_effect), alpha)
    looks = {arm: sums.looks(arm, spans) for arm in arms}
    return OverTime(
        edges=((edges - first) / 1000).tolist(),
        ctr={
            arm: [one_look(Estimate(*each)) for each in zip(rates.value, rates.variance, strict=True)]
            for arm in arms
            for rates in [click_rate(sums.spans(arm, spans))]
        },
        leader=leader,
        lift={
            other: [intervals(_at(effect, look), spread=spread, alpha=alpha)[1] for look in range(len(spans) - 1)]
            for other in arms
            if other != leader and other in against and leader in looks
            for effect in [compare(looks[leader], looks[other])]
        },
    )


def with_truth(spans: OverTime, traces: Mapping[str, ArmTrace]) -> OverTime:
    """Return the spans with what only a simulation knows: levels of oracle and chance, regret, least log loss."""
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
            name: (np.cumsum(_totals(trace, missed(trace), edges)) / max(1, len(set(trace.users)))).tolist()
            for name, trace in traces.items()
        },
        log_loss=by_arm("losses"),
        log_loss_floor=by_arm("floor"),
    )


def missed(trace: ArmTrace) -> list[float]:
    """Return, for each impression, the clicks to expect of the oracle less those to expect of what was shown."""
    return [best - expected for best, expected in zip(trace.best, trace.expected, strict=True)]


def _whole(edges: Sequence[int], first: float, last: float) -> list[int]:
    """Return edges without those that would leave less than half of a span at the beginning or the end."""
    kept = list(edges)
    if len(kept) > 3 and kept[1] - first < (kept[2] - kept[1]) / 2:
        del kept[1]
    if len(kept) > 3 and last - kept[-2] < (kept[-2] - kept[-3]) / 2:
        del kept[-2]
    return kept


def _at(effect: Effect, look: int) -> Effect:
    parts = (effect.first, effect.second, effect.difference, effect.log_ratio)
    return Effect(*(Estimate(part.value[look], part.variance[look]) for part in parts))


def _totals(trace: ArmTrace, values: Sequence[float], edges: Floats) -> Floats:
    totals: Floats = np.histogram(trace.at, edges, weights=values)[0].astype(np.float64)
    return totals


def _ratio(top: Floats, bottom: Floats) -> list[float]:
    ratio: list[float] = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0).tolist()
    return ratio
