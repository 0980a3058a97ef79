"""The log of progressive predictions: one row a judged sample."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

PREDICTION = np.dtype([("ts", "<i8"), ("user", "<u8"), ("label", "u1"), ("probability", "<f4")])
"""One judged sample in a progressive log: impression time (ms), XXH3-64 of the user, label, what was predicted."""


def read_predictions(path: Path) -> npt.NDArray[np.void]:
    """Read a progressive log: (n,) rows of dtype `PREDICTION`; a row cut short at the end is left out."""
    content = path.read_bytes()
    rows: npt.NDArray[np.void] = np.frombuffer(content[: len(content) - len(content) % PREDICTION.itemsize], PREDICTION)
    return rows
