"""What a replay shows over time: the metrics of each arm within windows of the stream."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from model.metrics import auc, normalised_entropy
from stream.report.schema import ReplayTrace


def replay_trace(labels: npt.NDArray[np.uint8], predictions: npt.NDArray[np.float32], windows: int = 25) -> ReplayTrace:
    """Cut (n,) labels and predictions, in the order of learning, into equal windows and judge each."""
    edges = np.linspace(0, len(labels), windows + 1).astype(int)
    parts = [
        (labels[low:high].astype(np.float64), predictions[low:high]) for low, high in pairwise(edges) if high > low
    ]
    return ReplayTrace(
        samples=[int(high) for low, high in pairwise(edges) if high > low],
        auc=[auc(*part) for part in parts],
        ne=[normalised_entropy(*part) for part in parts],
    )
