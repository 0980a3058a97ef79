"""The answer of an arm to an impression, and the answers that a task recovers from `scores` after a crash."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from stream.schema.events import Impression, Score, Team
from stream.task.resume import ResumePoint

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """The probabilities of an arm's model, its order of the candidates, and the model state that computed them.

    Attributes:
        arm: the user's arm.
        epoch: of the model.
        version: of the model.
        probabilities: (C,) float32, in the order of the candidates.
        order: (C,) candidate indices, best first.
        cpu_ms: this answer's part of the CPU time that scoring its batches took; 0 when not known.
        teams: as in `Score`.
    """

    arm: str
    epoch: int
    version: int
    probabilities: npt.NDArray[np.float32]
    order: npt.NDArray[np.intp]
    cpu_ms: float = 0.0
    teams: tuple[Team, ...] = ()

    @classmethod
    def from_score(cls, score: Score) -> "Answer":
        """Return the answer that a score was made of."""
        return cls(
            score.arm,
            score.epoch,
            score.version,
            np.array(score.probabilities, dtype=np.float32),
            np.array(score.order, dtype=np.intp),
            teams=tuple(score.teams),
        )


class RecoveredAnswers(Generic[T]):
    """Answers in `scores` that the state does not know yet, each waiting for its impression to be read again.

    They were given after the last commit, here or by the partition's last owner. Such an impression is not scored
    again: the model learns from what was shown.

    Args:
        resume: the answers, and the offset behind them.
        behaviors_end: where `behaviors` ended when the task began; no answer waits for records beyond it.
    """

    def __init__(self, resume: ResumePoint, *, behaviors_end: int) -> None:
        self._answers = dict(resume.answers)
        self._scores_end = resume.scores_end
        self._behaviors_end = behaviors_end
        self._held: list[T] = []

    def __len__(self) -> int:
        """Return how many wait for their impressions."""
        return len(self._answers)

    @property
    def scores_offset(self) -> int | None:
        """The offset of `scores` behind the last answer that a crash need not find again; None while some wait."""
        return None if self._answers else self._scores_end

    @property
    def held(self) -> int:
        """Impressions that wait until the behaviours which their answers knew are folded."""
        return len(self._held)

    def acknowledge(self, offset: int) -> None:
        """Tell that Kafka has an answer of this task at this offset of `scores`."""
        self._scores_end = max(self._scores_end, offset + 1)

    def take(self, impression: Impression) -> Score | None:
        """Return the answer that was given to an impression, once; None when there is none."""
        score = self._answers.get(impression.request)
        items = [candidate.item for candidate in impression.candidates]
        if score is None or score.items != items:
            return None
        del self._answers[impression.request]
        return score

    def drop(self) -> None:
        """Drop the rest: all impressions that were there at the start have been read."""
        self._answers.clear()

    def in_answer_order(
        self,
        entries: Iterable[T],
        impression_of: Callable[[T], Impression | None],
        *,
        folded: Callable[[], int],
        next_behavior: Callable[[], T | None],
    ) -> Iterator[T]:
        """Yield entries in order; before an impression that was answered once, all behaviours that its answer knew.

        The impression may have reached Kafka after behaviours that are younger by their time.

        Args:
            entries: in time order.
            impression_of: the impression of an entry; None for any other entry.
            folded: the offset up to which `behaviors` are folded.
            next_behavior: takes the next entry of `behaviors`, out of the order of time; None when none is there.
        """
        for entry in chain(self._held, entries):
            read_to = self._read_to(impression_of(entry))
            while folded() < read_to:
                self._held = [entry]
                behavior = next_behavior()
                if behavior is None:
                    return
                yield behavior
            self._held = []
            yield entry

    def _read_to(self, impression: Impression | None) -> int:
        """Return the offset of `behaviors` up to which the answer given to an impression had read."""
        score = self._answers.get(impression.request) if impression is not None else None
        return min(score.read_to, self._behaviors_end) if score else 0
