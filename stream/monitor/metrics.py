"""The monitor's metrics, and how its health is known: what it has counted, and what waits to be."""

from collections.abc import Mapping

import faust
from faust.types import TP
from prometheus_client import CollectorRegistry

from stream.runtime.health import Health
from stream.runtime.metrics import MetricFactory, Totals

REPORT_INTERVAL_S = 1.0


class MonitorMetrics:
    """All metrics of a monitor beside those of its health.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        declare = MetricFactory(registry)
        self._totals = Totals()
        self._events = declare.counter("events", "What happened to outcomes and windows.", "event")
        self._buffered = declare.gauge("buffered_records", "Outcomes taken from Kafka that are not counted yet.")
        self._erasures_lag = declare.gauge("erasures_lag_records", "Erasures that wait in Kafka.")
        self._partitions = declare.gauge("partitions", "Partitions of `outcomes` that this monitor has.")
        self._windows = declare.gauge("monitor_windows", "Windows that are kept, of all monitors.")
        self._uncounted = declare.gauge(
            "monitor_uncounted",
            "In the windows that are kept, of all monitors: items repeated, late or not remembered; outcomes refused.",
            "reason",
        )

    def update(
        self,
        events: Mapping[str, int],
        *,
        buffered: int,
        partitions: int,
        windows: int,
        uncounted: Mapping[str, int],
        erasures_lag: int,
    ) -> None:
        """Bring all of them up to date.

        Args:
            events: what happened so far, by name.
            buffered: outcomes that are not counted yet.
            partitions: of `outcomes`.
            windows: how many are kept.
            uncounted: reason → items or outcomes.
            erasures_lag: erasures that wait.
        """
        self._totals.set_each(self._events, events)
        self._buffered.set(buffered)
        self._erasures_lag.set(erasures_lag)
        self._partitions.set(partitions)
        self._windows.set(windows)
        for reason, count in uncounted.items():
            self._uncounted.labels(reason).set(count)


async def report_health(app: faust.App, topic: str, health: Health, *, counted: int, buffered: int) -> int:
    """Report what was counted and what waits; returns how many partitions of a topic this monitor has."""
    assigned: list[TP] = [place for place in app.consumer.assignment() if place.topic == topic]
    waiting = buffered
    for place in assigned:
        position = await app.consumer.position(place)
        waiting += max(0, (app.consumer.highwater(place) or 0) - (position or 0))
    health.report(done=counted, lag=waiting)
    return len(assigned)
