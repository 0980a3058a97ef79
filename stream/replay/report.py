"""The report of a replay: each arm's metrics over the last impressions, and in windows over the whole stream."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model import metrics
from stream.replay.closed_loop import ReplayCounts
from stream.report.machine import this_machine
from stream.report.schema import ReplayArm, ReplayReport, ReplayTrace
from stream.trainer.predictions import read_predictions

_WARM_UP = 0.4
"""Share of the impressions before those that are evaluated."""


def replay_report(
    counts: ReplayCounts,
    predictions: Mapping[str, Path],
    *,
    dataset: str,
    seconds: float,
    settings: Mapping[str, str | int | float],
) -> tuple[ReplayReport, dict[str, ReplayTrace]]:
    """Return the report, and the series of each arm.

    Args:
        counts: what the replay did.
        predictions: arm → the trainer's progressive log: each sample's prediction before it was learned from.
        dataset: its name.
        seconds: how long the replay took.
        settings: shown at the end of the page.
    """
    start = evaluated_from(counts.impression_times)
    arms, traces = {}, {}
    for arm, path in predictions.items():
        rows = read_predictions(path)
        traces[arm] = replay_trace(rows["label"], rows["probability"])
        evaluated = rows[rows["ts"] >= start]
        labels, probabilities = evaluated["label"].astype(float), evaluated["probability"]
        arms[arm] = ReplayArm(
            samples=len(evaluated),
            positives=int(labels.sum()),
            auc=metrics.auc(labels, probabilities),
            gauc=metrics.gauc(labels, probabilities, evaluated["user"]),
            ne=metrics.normalised_entropy(labels, probabilities),
            log_loss=metrics.log_loss(labels, probabilities),
            calibration=metrics.calibration(labels, probabilities),
        )
    report = ReplayReport(
        title=f"samstream replay: {dataset}",
        dataset=dataset,
        seconds=seconds,
        behaviors=counts.behaviors,
        impressions=counts.visits,
        clicks=counts.clicks,
        judged="the last 60% of the impressions, each sample predicted before it was learned from",
        dead_letters=counts.dead_letters,
        arms=arms,
        machine=this_machine(),
        settings=dict(settings),
    )
    return report, traces


def evaluated_from(times: Sequence[int]) -> int:
    """Return the event time at which the last 60% of the impressions at `times` begin.

    >>> evaluated_from([5, 4, 3, 2, 1])
    3
    """
    return sorted(times)[int(_WARM_UP * len(times))]


def replay_trace(labels: npt.NDArray[np.uint8], predictions: npt.NDArray[np.float32], windows: int = 25) -> ReplayTrace:
    """Cut (n,) labels and predictions, in the order of learning, into equal windows, and evaluate each."""
    edges = np.linspace(0, len(labels), windows + 1).astype(int)
    bounds = [(low, high) for low, high in pairwise(edges.tolist()) if high > low]
    parts = [(labels[low:high].astype(np.float64), predictions[low:high]) for low, high in bounds]
    return ReplayTrace(
        samples=[high for _, high in bounds],
        auc=[metrics.auc(*part) for part in parts],
        ne=[metrics.normalised_entropy(*part) for part in parts],
    )
