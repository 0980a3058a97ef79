"""The log of progressive predictions: one row a judged sample."""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream.errors import TrainerError
from stream.settings import Settings

PREDICTION = np.dtype([("ts", "<i8"), ("user", "<u8"), ("label", "u1"), ("probability", "<f4")])
"""One judged sample in a progressive log: impression time (ms), XXH3-64 of the user, label, what was predicted."""


def predictions_directory(settings: Settings) -> Path:
    """Return the folder of a trainer's logs: two prefixes that are given one folder have different ones in it."""
    folder, prefix = Path(settings.trainer.progressive_log), settings.topics.prefix
    return folder / f"prefix-{prefix}" if prefix else folder


def predictions_path(settings: Settings, arm: str) -> Path:
    """Return where the log of an arm lies."""
    return predictions_directory(settings) / f"{arm}.predictions"


@contextmanager
def sole_logger(path: Path) -> Iterator[None]:
    """Lock the log of an arm for one trainer, before another one could cut it; the lock ends with the process.

    Raises:
        TrainerError: when another process holds it, or it cannot be made.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab"))
        except OSError as error:
            raise TrainerError(
                f"cannot write predictions to {path}: {error}. Set trainer.progressive_log to another folder or to"
                " nothing, then start again"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainerError(
                f"another trainer writes its predictions to {path}: stop it, or give this one a"
                " trainer.progressive_log of its own"
            ) from None
        yield


def read_predictions(path: Path) -> npt.NDArray[np.void]:
    """Read a progressive log: (n,) rows of dtype `PREDICTION`; a row cut short at the end is left out."""
    content = path.read_bytes()
    rows: npt.NDArray[np.void] = np.frombuffer(content[: len(content) - len(content) % PREDICTION.itemsize], PREDICTION)
    return rows
