"""The answer of an arm to an impression, and the answers that a task recovers from `scores` after a crash."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from stream.schema.events import Impression, Reason, RequestKey, Shadow, Team
from stream.task.resume import GivenAnswer, ResumePoint

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
        shadows: as in `Score`.
        numbers: as in `Sample`, of all candidates.
        why: as in `Score`.
        shares: as in `Score`.
    """

    arm: str
    epoch: int
    version: int
    probabilities: npt.NDArray[np.float32]
    order: npt.NDArray[np.intp]
    cpu_ms: float = 0.0
    teams: tuple[Team, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    numbers: bytes = b""
    why: tuple[Reason, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def recovered(cls, given: GivenAnswer) -> "Answer":
        """Return the answer that was given before."""
        score = given.score
        return cls(
            score.arm,
            score.epoch,
            score.version,
            np.array(score.probabilities, dtype=np.float32),
            np.array(score.order, dtype=np.intp),
            teams=tuple(score.teams),
            numbers=given.numbers,
            shares=score.shares,
        )


class RecoveredAnswers(Generic[T]):
    """Answers in `scores` that the state does not know yet, each waiting for its impression to be read again.

    They were given after the last commit, here or by the partition's last owner. Such an impression is not scored
    again: the model learns from what was shown. An answer that is older than the impression was given to an earlier one
    of the same request id, such as one of a topic that was recreated since.

    Args:
        resume: the answers, and the offset behind them.
        behaviors_end: where `behaviors` ended when the task began; no answer waits for records beyond it.
        slack_ms: how much older an answer may seem than its impression, as their timestamps are of two clocks.
    """

    def __init__(self, resume: ResumePoint, *, behaviors_end: int, slack_ms: float) -> None:
        self._answers: dict[RequestKey, deque[GivenAnswer]] = {
            request: deque((given, *resume.later_answers.get(request, ()))) for request, given in resume.answers.items()
        }
        self._slack_ms = slack_ms
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

    def take(self, impression: Impression, timestamp: int) -> GivenAnswer | None:
        """Return the answer that was given to an impression, once; None when there is none.

        Args:
            impression: the request.
            timestamp: Kafka timestamp (ms) of its record.
        """
        given = self._given(impression, timestamp)
        items = [candidate.item for candidate in impression.candidates]
        if given is None or given.score.items != items:
            return None
        self._forget_first(impression.request)
        return given

    def drop(self) -> None:
        """Drop the rest: all impressions that were there at the start have been read."""
        self._answers.clear()

    def in_answer_order(
        self,
        entries: Iterable[T],
        asked: Callable[[T], tuple[Impression, int] | None],
        *,
        folded: Callable[[], int],
        next_behavior: Callable[[], T | None],
    ) -> Iterator[T]:
        """Yield entries in order; before an impression that was answered once, all behaviours that its answer knew.

        The impression may have reached Kafka after behaviours that are younger by their time.

        Args:
            entries: in time order.
            asked: the impression of an entry with the Kafka timestamp (ms) of its record; None for any other entry.
            folded: the offset up to which `behaviors` are folded.
            next_behavior: takes the next entry of `behaviors`, out of the order of time; None when none is there.
        """
        for entry in chain(self._held, entries):
            read_to = self._read_to(asked(entry))
            while folded() < read_to:
                self._held = [entry]
                behavior = next_behavior()
                if behavior is None:
                    return
                yield behavior
            self._held = []
            yield entry

    def _read_to(self, asked: tuple[Impression, int] | None) -> int:
        """Return the offset of `behaviors` up to which the answer given to an impression had read."""
        given = self._given(*asked) if asked is not None else None
        return min(given.score.read_to, self._behaviors_end) if given else 0

    def _given(self, impression: Impression, timestamp: int) -> GivenAnswer | None:
        """Return the first answer that may have been given to an impression; forgets those that are older than it."""
        while (given := self._answers.get(impression.request)) is not None:
            if not 0 <= given[0].timestamp < timestamp - self._slack_ms:
                return given[0]
            self._forget_first(impression.request)
        return None

    def _forget_first(self, request: RequestKey) -> None:
        given = self._answers[request]
        given.popleft()
        if not given:
            del self._answers[request]
