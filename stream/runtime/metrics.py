"""What the metrics of all jobs share: the prefix of their names, and counters that follow totals kept elsewhere.

Each job declares its metrics as `prometheus_client` objects in a `metrics.py` beside it.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

PREFIX = "samstream_"

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets of a histogram of durations."""

# Series named `_created` would only repeat the process's start time.
disable_created_metrics()  # type: ignore[no-untyped-call]


class MetricFactory:
    """Creates metrics under the common prefix, in one registry.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Return a new counter."""
        return Counter(PREFIX + name, text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Return a new gauge."""
        return Gauge(PREFIX + name, text, labels, registry=self._registry)


class Totals:
    """Raises Prometheus counters to totals that a job keeps by itself, such as a `collections.Counter`."""

    def __init__(self) -> None:
        self._reached: dict[tuple[Counter, tuple[str, ...]], float] = {}

    def set(self, counter: Counter, total: float, *labels: str) -> None:
        """Raise a counter to a total; one that is lower than before changes nothing.

        Args:
            counter: a Prometheus counter that nothing else raises.
            total: the new total.
            labels: values of its labels.
        """
        reached = self._reached.get((counter, labels), 0.0)
        (counter.labels(*labels) if labels else counter).inc(max(0.0, total - reached))
        self._reached[counter, labels] = max(total, reached)

    def set_each(self, counter: Counter, totals: Mapping[str, float]) -> None:
        """Raise a counter with one label to the totals of several of its values."""
        for label, total in totals.items():
            self.set(counter, total, label)
