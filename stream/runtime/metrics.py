"""Metrics for Prometheus, and a health check that turns bad when there is work and no progress.

`http://HOST:PORT/metrics` and `/health` (200 or 503, with the reason as JSON). The job publishes a reading now and
then; the server's thread only ever serves the newest one, so that scraping touches nothing that the job is changing.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_logger = logging.getLogger("samstream.telemetry")

_STALLED_S = 30.0
_PREFIX = "samstream_"

Labelled = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: what it is, the names of its labels, and its value for each of their values."""

    name: str
    text: str
    values: Labelled
    labels: tuple[str, ...] = ()
    counter: bool = False

    def metric(self) -> Metric:
        """Return it as Prometheus's client has it."""
        kind = CounterMetricFamily if self.counter else GaugeMetricFamily
        family = kind(_PREFIX + self.name, self.text, labels=self.labels)
        for values, value in self.values.items():
            family.add_metric(values, value)
        return family


_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Durations:
    """A histogram of seconds; give `snapshot` of it to a reading."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._text = text
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """Take one duration."""
        self._counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self._total += seconds

    def snapshot(self) -> "Durations":
        """Return a copy."""
        copy = Durations(self.name, self._text)
        copy._counts, copy._total = self._counts[:], self._total
        return copy

    def metric(self) -> Metric:
        """Return it as Prometheus's client has it."""
        bounds = [*map(str, _BOUNDS_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(_PREFIX + self.name, self._text, buckets=buckets, sum_value=self._total)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a job stands.

    Attributes:
        done: a count that grows with every record worked off; that it does not is a stall, if there is `lag`.
        lag: records that wait in Kafka.
        families: everything else.
    """

    done: int
    lag: int
    families: tuple[Family | Durations, ...] = field(default=())


class Telemetry(Collector):
    """Readings of one job, and what they say about its health.

    Args:
        role: what it does, such as `worker`: a label of what all jobs tell.
        clock: monotonic, seconds.
    """

    def __init__(self, role: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._role = role
        self._clock = clock
        self._lock = threading.Lock()
        self._reading = Reading(0, 0)
        self._published = self._progressed = clock()

    def publish(self, reading: Reading) -> None:
        """Take the newest reading; call it at least every few seconds while all is well."""
        with self._lock:
            self._published = self._clock()
            if reading.done > self._reading.done or not reading.lag or not self._reading.lag:
                self._progressed = self._published
            self._reading = reading

    def alive(self, families: tuple[Family, ...] = ()) -> None:
        """Take note that the job is busy with something long that goes well, such as restoring a snapshot.

        Args:
            families: how that stands; they take the place of those of the same names.
        """
        names = {family.name for family in families}
        with self._lock:
            self._published = self._progressed = self._clock()
            kept = tuple(family for family in self._reading.families if family.name not in names)
            self._reading = replace(self._reading, families=kept + families)

    def trouble(self) -> str:
        """Say what is wrong; nothing when all is well."""
        with self._lock:
            now, lag = self._clock(), self._reading.lag
            silent, stuck = now - self._published, now - self._progressed
        if silent > _STALLED_S:
            return f"no sign of life for {silent:.0f} s: it waits for Kafka, or hangs"
        if lag and stuck > _STALLED_S:
            return f"{lag} records wait, and none was worked off for {stuck:.0f} s"
        return ""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the newest reading."""
        trouble = self.trouble()
        with self._lock:
            reading, now = self._reading, self._clock()
            ages = now - self._published, now - self._progressed
        own = (
            Family("healthy", "1 when there is no stall", {(self._role,): float(not trouble)}, ("role",)),
            Family("lag_records", "records that wait in Kafka", {(self._role,): reading.lag}, ("role",)),
            Family("records", "records worked off", {(self._role,): reading.done}, ("role",), counter=True),
            Family("reading_age_seconds", "since the job said how it stands", {(self._role,): ages[0]}, ("role",)),
            Family(
                "progress_age_seconds",
                "since a record was worked off, or none waited",
                {(self._role,): ages[1]},
                ("role",),
            ),
        )
        for family in (*own, *reading.families):
            yield family.metric()


def by_one(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Return values for a metric with one label."""
    return {(name,): value for name, value in values.items()}
