"""What a report says (`DemoReport`, `ReplayReport`: the file report.json) and the series that its pictures show."""

from msgspec import Struct

from stream.experiment.verdict import Verdict


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


class ArmResult(Struct, frozen=True):
    """What became of one arm's users.

    Attributes:
        impressions: requests answered by the arm.
        shown: items shown in them.
        clicks: items clicked.
        ctr: clicks / shown, with a 95% interval (`ctr_low`, `ctr_high`) over users.
        log_loss: mean over the shown items, of the probabilities as they were served.
        log_loss_floor: the same of the true probabilities: no model has less on these items; NaN when unknown.
        ctr_best: CTR to expect of an oracle that knows the truth, on the same requests; NaN when unknown.
        ctr_random: CTR to expect of a random ranking, on the same requests; NaN when unknown.
        epoch: epoch of the newest model that answered.
        version: its version within the epoch.
    """

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

    epoch: int = 0
    version: int = 0


class DemoReport(Struct, frozen=True, kw_only=True):
    """A simulated experiment and the verdict on it."""

    title: str
    seconds: float
    impressions: int
    scores: int
    clicks: int
    behaviors: int
    samples_trained: int
    dead_letters: int
    latency_ms: Percentiles
    freshness_s: Percentiles
    arms: dict[str, ArmResult]
    verdict: Verdict
    machine: Machine
    settings: dict[str, str | int | float]


class ArmTrace(Struct, frozen=True, kw_only=True):
    """What happened to one arm's users; one entry an answered impression in each list.

    Attributes:
        at: seconds since the start.
        users: whose impression it was.
        shown: items shown.
        clicks: items clicked.
        losses: summed log loss of the shown items, of the probabilities as they were served.
        floor: summed log loss to expect of the true probabilities of the shown items; no entries when unknown.
        best: true expected clicks of the best that could be shown; no entries when unknown.
        random: true expected clicks of a random choice; no entries when unknown.
        epoch: epoch of the newest model that answered.
        version: its version within the epoch.
    """

    at: list[float]
    users: list[int]
    shown: list[int]
    clicks: list[int]
    losses: list[float]
    floor: list[float] = []
    best: list[float] = []
    random: list[float] = []
    epoch: int = 0
    version: int = 0


class RatePoint(Struct, frozen=True):
    """Records a second in the moment `at` (seconds since the start): events in, scores out, samples learned."""

    at: float
    events: float
    scores: float
    samples: float


class DemoTrace(Struct, frozen=True, kw_only=True):
    """All that the pictures of a `DemoReport` show. `latency` is (at, ms), `freshness` (at, s) of each measurement."""

    arms: dict[str, ArmTrace]
    latency: list[tuple[float, float]]
    freshness: list[tuple[float, float]]
    rates: list[RatePoint]


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
    """A data set's way through the loop. `judged` says which samples the metrics are over."""

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
