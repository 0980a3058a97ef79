"""The scorers of all arms side by side: each user is answered by the one of their own arm."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.example import Example
from model.scorer import Scorer
from stream.events import Score
from stream.experiment.assignment import Assignment
from stream.settings import Settings


@dataclass(frozen=True, slots=True)
class Answer:
    """What an arm said: (C,) float32 probabilities, candidate indices best first, and the model state that spoke.

    `cpu_ms` is this answer's part of the CPU time that scoring its batch took the calling thread; 0 when not known.
    """

    arm: str
    epoch: int
    version: int
    probabilities: npt.NDArray[np.float32]
    order: npt.NDArray[np.intp]
    cpu_ms: float = 0.0

    @classmethod
    def given(cls, score: Score) -> "Answer":
        """Return the answer that a score was made of."""
        return cls(
            score.arm,
            score.epoch,
            score.version,
            np.array(score.probabilities, dtype=np.float32),
            np.array(score.order, dtype=np.intp),
        )


class Arms:
    """The serving models of all arms."""

    def __init__(self, settings: Settings, *, device: str) -> None:
        self._assignment = Assignment({arm.name: arm.share for arm in settings.arms}, salt=settings.salt)
        self._micro_batch = settings.worker.micro_batch
        self.scorers = {arm.name: Scorer(arm.spec(), seed=settings.seed, device=device) for arm in settings.arms}

    def answer(self, users: Sequence[str], examples: Sequence[Example]) -> list[Answer]:
        """Score one example a user, in micro-batches of one arm each; answers keep the order of the examples."""
        by_arm: dict[str, list[int]] = {}
        for index, user in enumerate(users):
            by_arm.setdefault(self._assignment.arm(user), []).append(index)
        answers: dict[int, Answer] = {}
        for arm, indices in by_arm.items():
            scorer = self.scorers[arm]
            # Neighbours of similar length share a batch, so that little of it is padding.
            indices.sort(key=lambda index: len(examples[index].sequence))
            for start in range(0, len(indices), self._micro_batch):
                chunk = indices[start : start + self._micro_batch]
                began = time.thread_time()
                scored = scorer.score([examples[index] for index in chunk])
                cpu_ms = (time.thread_time() - began) * 1000 / len(chunk)
                for index, probabilities in zip(chunk, scored, strict=True):
                    order = np.argsort(-probabilities, kind="stable")
                    version = scorer.version
                    answers[index] = Answer(arm, version.epoch, version.version, probabilities, order, cpu_ms)
        return [answers[index] for index in range(len(examples))]
