"""What the jobs tell of themselves: their counts and states as metrics."""

from collections import Counter
from collections.abc import Mapping

from stream.runtime.metrics import Durations, Family, Reading, by_one


def worker_reading(
    *,
    done: int,
    counts: Counter[str],
    lag: Mapping[str, int],
    in_hand: int,
    open_requests: int,
    unacknowledged: int,
    partitions: int,
    commit_s: float,
    refused: Counter[str],
    models: Mapping[str, tuple[int, int, float]],
    batch: int = 0,
    latency: Durations | None = None,
    recovery: tuple[Family, ...] = (),
) -> Reading:
    """Return how a worker stands.

    Args:
        done: records worked off.
        counts: what happened, by name.
        lag: topic → records in Kafka that are not worked off.
        in_hand: records taken from Kafka that wait for their turn.
        open_requests: impressions whose window is open.
        unacknowledged: records on their way to Kafka.
        partitions: how many it has.
        commit_s: what the last commit took.
        refused: reason → model updates that were refused for it.
        models: arm → epoch and version that are served, and the seconds since they were taken.
        batch: records that the newest batch brought.
        latency: from an impression's timestamp to its answer.
        recovery: how restoring snapshots and replaying the log stand.
    """
    return Reading(
        done,
        sum(lag.values()),
        (
            Family("events", "what happened", by_one(counts), ("event",), counter=True),
            Family("topic_lag_records", "records of a topic that wait", by_one(lag), ("topic",)),
            Family("dead_letters", "records that could not be used", {(): counts["refused"]}, counter=True),
            Family("batch_records", "records that the newest batch brought", {(): batch}),
            Family("in_hand_records", "taken from Kafka, waiting for their turn", {(): in_hand}),
            Family("open_requests", "impressions whose window is open", {(): open_requests}),
            Family("unacknowledged_records", "on their way to Kafka", {(): unacknowledged}),
            Family("partitions", "partitions of this worker", {(): partitions}),
            Family("commit_seconds", "what the last commit took", {(): commit_s}),
            Family("updates_refused", "model updates refused", by_one(refused), ("reason",), counter=True),
            Family("model_epoch", "life of the trainer", {(arm,): m[0] for arm, m in models.items()}, ("arm",)),
            Family("model_version", "version in it", {(arm,): m[1] for arm, m in models.items()}, ("arm",)),
            Family("model_age_seconds", "since it was taken", {(arm,): m[2] for arm, m in models.items()}, ("arm",)),
            *(() if latency is None else (latency.snapshot(),)),
            *recovery,
        ),
    )
