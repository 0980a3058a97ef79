"""The trainer's metrics."""

from stream.runtime.metrics import Family, Reading, by_one
from stream.trainer.training import Training


def trainer_reading(
    training: Training, *, done: int, lag: int, epoch: int, checkpoint_age_s: float, checkpoint_s: float, batch: int = 0
) -> Reading:
    """Return how a trainer stands; progressive metrics are of each arm's last window, `batch` of the last step."""
    lately = {name: student.metrics.last_window() for name, student in training.students.items()}
    judged: dict[tuple[str, ...], float] = {
        (name, measure): getattr(metrics, measure)
        for name, metrics in lately.items()
        for measure in ("log_loss", "ne", "auc", "calibration")
    }
    learners = {name: student.learner for name, student in training.students.items()}
    rows: dict[tuple[str, ...], float] = {
        (name, table): rows for name, each in learners.items() for table, rows in each.rows.items()
    }
    return Reading(
        done,
        lag,
        (
            Family("events", "what happened", by_one(training.counts), ("event",), counter=True),
            Family("dead_letters", "records that could not be used", {(): training.counts["refused"]}, counter=True),
            Family("batch_records", "records of the newest step", {(): batch}),
            Family("progressive", "predicted before learned, last window", judged, ("arm", "measure")),
            Family("model_epoch", "life of the trainer", {(name,): epoch for name in learners}, ("arm",)),
            Family(
                "model_version", "version in it", {(n,): each.version.version for n, each in learners.items()}, ("arm",)
            ),
            Family(
                "steps_skipped",
                "not finite",
                {(n,): each.skipped for n, each in learners.items()},
                ("arm",),
                counter=True,
            ),
            Family("embedding_rows", "rows of a table", rows, ("arm", "table")),
            Family("checkpoint_age_seconds", "since the last checkpoint", {(): checkpoint_age_s}),
            Family("checkpoint_seconds", "what the last checkpoint took", {(): checkpoint_s}),
        ),
    )
