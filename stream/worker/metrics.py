"""The worker's metrics."""

from prometheus_client import CollectorRegistry, Histogram

from stream.runtime.metrics import PREFIX, SECONDS, MetricFactory


class WorkerMetrics:
    """All metrics of a worker beside those of its health.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        declare = MetricFactory(registry)
        self.events = declare.counter("events", "What happened to records and requests.", "event")
        self.dead_letters = declare.counter("dead_letters", "Records that could not be used.")
        self.topic_lag = declare.gauge("topic_lag_records", "Records of a topic that wait in Kafka.", "topic")
        self.batch = declare.gauge("batch_records", "Records of the newest batch from Kafka.")
        self.buffered = declare.gauge("buffered_records", "Records taken from Kafka that wait for their turn.")
        self.open_requests = declare.gauge("open_requests", "Impressions whose attribution window is open.")
        self.unacknowledged = declare.gauge("unacknowledged_records", "Records that Kafka has not acknowledged yet.")
        self.partitions = declare.gauge("partitions", "Partitions of this worker.")
        self.standby_partitions = declare.gauge(
            "standby_partitions", "Partitions of other workers that this one keeps a copy of."
        )
        self.standby_lag = declare.gauge(
            "standby_lag_records", "Behaviours that their workers have committed and the copies have not folded."
        )
        self.erasures_lag = declare.gauge(
            "erasures_lag_records", "Erasures that wait in Kafka, or whose bytes are still in the files of a partition."
        )
        self.commit_seconds = declare.gauge("commit_seconds", "Duration of the last commit.")
        self.answer_seconds = Histogram(
            f"{PREFIX}answer_seconds",
            "From an impression's Kafka timestamp to its answer.",
            buckets=SECONDS,
            registry=registry,
        )
        self.answers_not_finite = declare.counter(
            "answers_not_finite", "Answers in the candidates' own order, since the arm's model had none.", "arm"
        )
        self.chosen_lengths = declare.counter(
            "chosen_lengths", "Answers by the length that the arm's policy chose; only of kind `sar`.", "arm", "length"
        )
        self.updates_of_unknown_arms = declare.counter(
            "updates_of_unknown_arms", "Model updates of arms that this worker does not have.", "arm"
        )
        self.updates_refused = declare.counter("updates_refused", "Model updates that were refused.", "reason")
        self.model_epoch = declare.gauge("model_epoch", "Epoch of the model that is served.", "arm")
        self.model_version = declare.gauge(
            "model_version", "Version, within its epoch, of the model that is served.", "arm"
        )
        self.model_age = declare.gauge("model_age_seconds", "Seconds since the newest update was taken.", "arm")
        self.restore_bytes = declare.counter("restore_bytes", "Bytes read from snapshots to restore them.")
        self.restored_ratio = declare.gauge(
            "restored_ratio", "Share of a partition's snapshot that is restored.", "partition"
        )
        self.restore_seconds = declare.gauge("restore_seconds", "Duration of the last restore so far.")
        self.replay_left = declare.gauge(
            "replay_left_records", "Records that Kafka had at the assignment and that are not processed."
        )
        self.replayed_ratio = declare.gauge(
            "replayed_ratio", "Share of the records at the assignment that is processed."
        )
        self.replay_seconds = declare.gauge(
            "replay_seconds", "Duration of the replay after the last assignment so far."
        )
        self.replayed_ratio.set(1.0)
