"""The gateway's metrics."""

from prometheus_client import CollectorRegistry, Histogram

from stream.runtime.metrics import PREFIX, SECONDS, MetricFactory


class GatewayMetrics:
    """All metrics of a gateway beside those of its health.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        declare = MetricFactory(registry)
        self.answers = declare.counter("gateway_answers", "Answers over HTTP, by address and status.", "path", "status")
        self.seconds = Histogram(
            f"{PREFIX}gateway_answer_seconds",
            "From a call to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = declare.gauge("gateway_in_flight", "Requests that wait for their scores.")
        self.unacknowledged = declare.gauge(
            "gateway_unacknowledged_records", "Records that Kafka has not acknowledged yet."
        )
        self.remembered = declare.gauge("gateway_remembered_answers", "Answers that a repeated request would get.")
        self.repeated = declare.counter("gateway_repeated", "Requests that were asked before, and not written again.")
        self.withdrawn = declare.counter(
            "gateway_withdrawn", "Requests whose score did not come in time, so that nothing may be learned from it."
        )
        self.late = declare.counter("gateway_late_scores", "Scores that came after their request was withdrawn.")
        self.malformed = declare.counter("gateway_malformed_scores", "Records of `scores` that are no answers.")
        self.forwarded = declare.counter("gateway_forwarded", "Requests that another gateway has answered.", "peer")
