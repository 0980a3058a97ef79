"""`docs/metrics.md`: every Prometheus metric of the jobs, from the objects that they declare."""

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from docs.generator.markdown import table
from stream.bandit.metrics import BanditMetrics
from stream.gateway.metrics import GatewayMetrics
from stream.monitor.metrics import MonitorMetrics
from stream.runtime.health import Health
from stream.trainer.metrics import TrainerMetrics
from stream.worker.metrics import WorkerMetrics

_HEAD = """# Metrics

*This page is written by `python -m docs.generator`; do not edit it.*

`worker.metrics=HOST:PORT`, and the same of `trainer`, `monitor`, `gateway` and `bandit`, serve these at `/metrics` for
Prometheus, and [`/health`](operations.md#watching) beside it. A counter ends in `_total`; a histogram has `_bucket`,
`_sum` and `_count`. `docker/grafana` has a dashboard. What the [monitor](monitor.md) counts is on its page and in
`experiment-metrics`."""


class _Listed(CollectorRegistry):
    """A registry that remembers what was registered."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        """Register a collector and remember it."""
        self.collectors.append(collector)
        super().register(collector)


def metrics_page() -> str:
    """Return the page."""
    shared, worker, trainer, monitor, gateway, bandit = (_Listed() for _ in range(6))
    Health("worker", shared)
    WorkerMetrics(worker)
    TrainerMetrics(trainer)
    MonitorMetrics(monitor)
    GatewayMetrics(gateway)
    BanditMetrics(bandit)
    recovery = [each for each in worker.collectors if _name(each).startswith(("samstream_restore", "samstream_replay"))]
    own = [each for each in worker.collectors if each not in recovery]
    sections = (
        ("All jobs", shared.collectors),
        ("Worker", own),
        ("Recovery of a worker", recovery),
        ("Trainer", trainer.collectors),
        ("Monitor", monitor.collectors),
        ("Gateway", gateway.collectors),
        ("Bandit", bandit.collectors),
    )
    return "\n\n".join((_HEAD, *(f"## {title}\n\n{_table(listed)}" for title, listed in sections))) + "\n"


def _table(collectors: list[Collector]) -> str:
    rows = []
    for each in collectors:
        assert isinstance(each, MetricWrapperBase)
        [metric] = each.describe()
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in each._labelnames)
        rows.append((f"`{name}`", metric.type, labels, metric.documentation))
    return table(("metric", "type", "labels", "meaning"), rows)


def _name(collector: Collector) -> str:
    assert isinstance(collector, MetricWrapperBase)
    [metric] = collector.describe()
    return str(metric.name)
