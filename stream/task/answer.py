"""What an arm answered to an impression."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream.schema.events import Score, Team


@dataclass(frozen=True, slots=True)
class Answer:
    """What an arm said: (C,) float32 probabilities, candidate indices best first, and the model state that spoke.

    `cpu_ms` is this answer's part of the CPU time that scoring its batches took the calling thread; 0 when not known.
    `teams` as in `Score`.
    """

    arm: str
    epoch: int
    version: int
    probabilities: npt.NDArray[np.float32]
    order: npt.NDArray[np.intp]
    cpu_ms: float = 0.0
    teams: tuple[Team, ...] = ()

    @classmethod
    def given(cls, score: Score) -> "Answer":
        """Return the answer that a score was made of."""
        return cls(
            score.arm,
            score.epoch,
            score.version,
            np.array(score.probabilities, dtype=np.float32),
            np.array(score.order, dtype=np.intp),
            teams=tuple(score.teams),
        )
