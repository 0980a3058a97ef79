"""The bandit's metrics."""

from prometheus_client import CollectorRegistry

from stream.runtime.metrics import MetricFactory


class BanditMetrics:
    """All metrics of a bandit beside those of its health.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        declare = MetricFactory(registry)
        self.share = declare.gauge("bandit_share", "Newest share of an arm among those who do not explore.", "arm")
        self.best = declare.gauge("bandit_best", "Probability that an arm's click rate is the highest.", "arm")
        self.steps = declare.counter("bandit_steps", "Records of `experiment-shares` that it has written.")
        self.without_propensity = declare.counter(
            "bandit_outcomes_without_propensity", "Outcomes of exploring users from workers that have no bandit."
        )
        self.foreign = declare.counter(
            "bandit_foreign_outcomes", "Outcomes of exploring users in another arm than these settings say."
        )
