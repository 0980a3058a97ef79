"""The trainer's metrics."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from model.embedding.learned import KEY_EVENTS
from stream.runtime.metrics import MetricFactory, Totals
from stream.trainer.behavior_counter import BehaviorCounter
from stream.trainer.training import Training

_PROGRESSIVE = ("log_loss", "ne", "auc", "calibration")


class TrainerMetrics:
    """All metrics of a trainer beside those of its health.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        declare = MetricFactory(registry)
        self._totals = Totals()
        self._sent: Mapping[str, int] = {}
        self.exchanged = declare.counter(
            "exchanged_bytes", "What this rank of the trainer has put into exchanges with the others.", "exchange"
        )
        self.events = declare.counter("events", "What happened to samples.", "event")
        self.dead_letters = declare.counter("dead_letters", "Records that could not be used.")
        self.batch = declare.gauge("batch_records", "Records of the newest step.")
        self.progressive = declare.gauge(
            "progressive", "Progressive validation of the last window: predicted, then learned.", "arm", "measure"
        )
        self.model_epoch = declare.gauge(
            "model_epoch", "Epoch of the models: raised by each start of the trainer.", "arm"
        )
        self.model_version = declare.gauge("model_version", "Version, within the epoch, of the newest update.", "arm")
        self.steps_skipped = declare.counter("steps_skipped", "Steps left out because they were not finite.", "arm")
        self.updates_withheld = declare.counter(
            "updates_withheld", "Updates not published, since the arm's parameters are not finite.", "arm"
        )
        self.samples_of_unknown_arms = declare.counter(
            "samples_of_unknown_arms", "Samples of arms that this trainer's settings do not have.", "arm"
        )
        self.embedding_rows = declare.gauge("embedding_rows", "Rows of an embedding table.", "arm", "table")
        self.behaviors = declare.counter(
            "behaviors", "Behaviours counted for the statistics, and records left out since they are none.", "counted"
        )
        self.behaviors_lag = declare.gauge("behaviors_lag", "Behaviours that wait to be counted.")
        self.statistics_rows = declare.gauge("statistics_rows", "Rows of a table of counts.", "table")
        self.embedding_keys = declare.counter(
            "embedding_keys",
            "Keys that got a row (`admitted`), came to learn and were not seen often enough yet (`refused`), lost their"
            " row since it was not touched for long (`expired`) or since the table was full (`evicted`), and came in a"
            " step of more keys than the table may have rows (`dropped`).",
            "arm",
            "table",
            "event",
        )
        self.erasures_lag = declare.gauge(
            "erasures_lag_records", "Erasures that wait in Kafka, or that no checkpoint holds yet."
        )
        self.checkpoint_age = declare.gauge("checkpoint_age_seconds", "Seconds since the last checkpoint.")
        self.checkpoint_seconds = declare.gauge("checkpoint_seconds", "Duration of the last checkpoint.")

    def watch_exchanges(self, sent: Mapping[str, int]) -> None:
        """Show what this rank sends to the others: name of an exchange → bytes so far."""
        self._sent = sent

    def update(self, training: Training, counter: BehaviorCounter | None, withheld: Mapping[str, int]) -> None:
        """Bring the metrics of what was learned up to date.

        Args:
            training: the arms.
            counter: counts behaviours for them, if they read that.
            withheld: arm → updates that were not published.
        """
        self._totals.set_each(self.updates_withheld, withheld)
        self._totals.set_each(self.samples_of_unknown_arms, training.unknown_arms)
        self._totals.set_each(self.events, training.counts)
        self._totals.set_each(self.exchanged, self._sent)
        self._totals.set(self.dead_letters, training.counts["refused"])
        if counter is not None:
            for counted, name in (("yes", "behaviors_counted"), ("no", "behaviors_not_counted")):
                self._totals.set(self.behaviors, counter.counts[name], counted)
            self.behaviors_lag.set(counter.lag)
            for table, rows in counter.rows.items():
                self.statistics_rows.labels(table).set(rows)
        for name, arm in training.arms.items():
            window = arm.metrics.last_window()
            for measure in _PROGRESSIVE:
                self.progressive.labels(name, measure).set(getattr(window, measure))
            version = arm.learner.version
            self.model_epoch.labels(name).set(version.epoch)
            self.model_version.labels(name).set(version.version)
            self._totals.set(self.steps_skipped, arm.learner.skipped, name)
            for table, rows in arm.learner.rows.items():
                self.embedding_rows.labels(name, table).set(rows)
            for table, counts in arm.learner.key_counts.items():
                for event in KEY_EVENTS:
                    self._totals.set(self.embedding_keys, counts[event], name, table, event)
