"""The content of report.json (`ExperimentReport`, `ReplayReport`) and of series.json (`Trace`, `ReplayTrace`)."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy.typing as npt
from msgspec import Struct

from stream.experiment.guardrails.results import GuardrailResult
from stream.experiment.interleaving import Preference
from stream.experiment.statistics.intervals import percentiles
from stream.experiment.timeline import Timeline
from stream.experiment.verdict import Verdict
from stream.report.formatting import learning_words, model_words
from stream.settings import ArmSettings


class Percentiles(Struct, frozen=True):
    """Median and 99th percentile; NaN (null in JSON) where nothing was measured."""

    p50: float
    p99: float


class Machine(Struct, frozen=True):
    """Where it ran and with what."""

    cpu: str
    cores: int
    memory_gb: float
    python: str
    versions: dict[str, str]
    device: str = "cpu"


class ArmPlan(Struct, frozen=True):
    """An arm's configuration: its share of the users (0 to 1), model, behaviours read, and whom it learns from."""

    share: float
    model: str
    length: int
    learns: str


class ArmResult(Struct, frozen=True, kw_only=True):
    """Results of one arm. What is not known is NaN, null in JSON.

    Attributes:
        users: who were in this arm and in no other.
        impressions: requests answered by the arm.
        shown: items shown in them.
        clicks: items clicked.
        ctr: clicks / shown, with a 95% interval (`ctr_low`, `ctr_high`) over users, for one look.
        log_loss: mean over the shown items, of the probabilities as they were served.
        log_loss_floor: the same of the true probabilities: no model has less on these items.
        ctr_best: CTR to expect of an oracle that knows the truth, on the same requests.
        ctr_random: CTR to expect of a random ranking, on the same requests.
        regret: clicks an impression to expect of the oracle, less those to expect of what was shown.
        latency_ms: of the answers.
        cpu_s: seconds of CPU for scoring a thousand impressions.
        timed: answers whose times are in `latency_ms` and `cpu_s`.
        epoch: epoch of the newest model that answered.
        version: its version within the epoch.
    """

    users: int
    impressions: int
    shown: int
    clicks: int
    ctr: float
    ctr_low: float
    ctr_high: float
    log_loss: float
    log_loss_floor: float
    ctr_best: float
    ctr_random: float
    regret: float
    latency_ms: Percentiles
    cpu_s: float
    timed: int
    epoch: int = 0
    version: int = 0


class Check(Struct, frozen=True):
    """One thing that could make the verdict invalid: a question, its answer, and what that means.

    `state` is `fine`, `note` (worth knowing), `fatal` (no winner is named) or `unknown`; `p` the p-value, if any.
    """

    name: str
    question: str
    answer: str
    state: Literal["fine", "note", "fatal", "unknown"]
    p: float | None = None


class ExperimentReport(Struct, frozen=True, kw_only=True):
    """An experiment and the verdict on it. What live traffic does not know is None or NaN, null in JSON.

    Attributes:
        name: of the experiment.
        source: simulated users with a known truth, or live traffic.
        began: when the first impression was, UTC, ISO 8601; empty without any.
        seconds: from the first impression to the last.
        alpha: of the verdict.
        minimum_effect: smallest lift worth finding.
        impressions, clicks: of all arms.
        scores: answers.
        behaviors: written beside impressions and clicks.
        samples_trained: items that the trainer has learned from.
        dead_letters: records that could not be used.
        latency_ms: of all answers.
        latency_is: what that is, in words.
        freshness_s: from a click to the first answer by a model that has learned from it.
        plan: arm → its configuration.
        arms: arm → its results.
        verdict: the verdict.
        interleaving: what each interleaved arm says; empty where none has users.
        guardrails: what each guardrail says of each arm; empty where the file has none, or nothing was read for them.
        checks: what could make it invalid.
        over_time: the same in spans of time.
        machine: where the report was made; of a simulation, where everything ran.
        settings: shown at the end of the page.
    """

    name: str
    source: Literal["simulated", "live"]
    began: str
    seconds: float
    alpha: float
    minimum_effect: float
    impressions: int
    scores: int
    clicks: int
    behaviors: int | None = None
    samples_trained: int | None = None
    dead_letters: int | None = None
    latency_ms: Percentiles
    latency_is: str
    freshness_s: Percentiles
    plan: dict[str, ArmPlan]
    arms: dict[str, ArmResult]
    verdict: Verdict
    interleaving: list[Preference] = []
    guardrails: list[GuardrailResult] = []
    checks: list[Check]
    over_time: Timeline
    machine: Machine
    settings: dict[str, str | int | float]


class ArmTrace(Struct, frozen=True, kw_only=True):
    """One arm's simulated impressions; one entry an answered impression in each list.

    Attributes:
        at: seconds since the start.
        users: whose impression it was.
        shown: items shown.
        clicks: items clicked.
        losses: summed log loss of the shown items, of the probabilities as they were served.
        floor: summed log loss to expect of the true probabilities of the shown items.
        best: true expected clicks of the best that could be shown.
        random: true expected clicks of a random choice.
        expected: true expected clicks of what was shown.
        latency: ms from the impression produced to its score received.
        cpu: ms of CPU that scoring it took.
        epoch: epoch of the newest model that answered.
        version: its version within the epoch.
    """

    at: list[float] = []
    users: list[int] = []
    shown: list[int] = []
    clicks: list[int] = []
    losses: list[float] = []
    floor: list[float] = []
    best: list[float] = []
    random: list[float] = []
    expected: list[float] = []
    latency: list[float] = []
    cpu: list[float] = []
    epoch: int = 0
    version: int = 0


class RatePoint(Struct, frozen=True):
    """Records a second in the moment `at` (seconds since the start): events in, scores out, samples learned."""

    at: float
    events: float
    scores: float
    samples: float


TimedValues = list[tuple[float, float]]
"""Measurements: (s since the first impression, value)."""


class Trace(Struct, frozen=True, kw_only=True):
    """The series behind the pictures: `latency` is arm → (at, ms), `freshness` (at, s).

    Of a simulation also every impression.
    """

    latency: dict[str, TimedValues] = {}
    freshness: TimedValues = []
    rates: list[RatePoint] = []
    arms: dict[str, ArmTrace] = {}


class ReplayArm(Struct, frozen=True):
    """Progressive metrics of one arm: every sample predicted before it was learned from."""

    samples: int
    positives: int
    auc: float
    gauc: float
    ne: float
    log_loss: float
    calibration: float


class ReplayReport(Struct, frozen=True, kw_only=True):
    """A replay of a data set. `judged` says which samples the metrics are over."""

    title: str
    dataset: str
    seconds: float
    behaviors: int
    impressions: int
    clicks: int
    judged: str
    dead_letters: int
    arms: dict[str, ReplayArm]
    machine: Machine
    settings: dict[str, str | int | float]


class ReplayTrace(Struct, frozen=True):
    """Metrics of one arm over windows: `samples` seen by the end of each window, AUC and NE within it."""

    samples: list[int]
    auc: list[float]
    ne: list[float]


def arm_plans(arms: Sequence[ArmSettings], seen: Iterable[str] = ()) -> dict[str, ArmPlan]:
    """Return what arms are, as a report says it; of those that were only seen, nothing is known."""
    total = sum(arm.share for arm in arms)
    planned = {arm.name: _planned(arm, arm.share / total) for arm in arms}
    return planned | {name: ArmPlan(float("nan"), "unknown", 0, "unknown") for name in seen if name not in planned}


def _planned(arm: ArmSettings, share: float) -> ArmPlan:
    if arm.interleave:
        return ArmPlan(share, ", ".join(arm.interleave) + " in turn", 0, "from what each placed")
    return ArmPlan(share, model_words(arm), arm.spec().length, learning_words(arm))


def p50_p99(values: npt.ArrayLike) -> Percentiles:
    """Return median and 99th percentile."""
    return Percentiles(*percentiles(values, (50, 99)))
