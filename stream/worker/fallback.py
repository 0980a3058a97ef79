"""Answers in the place of those that an arm could not give: every impression is answered, whatever its model does."""

import logging
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from model.interest.baselines import PRIOR
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.task.answer import Answer

_logger = logging.getLogger("samstream.worker")

_RECENT_S = 60.0


class FallbackAnswers:
    """Answers in the order of the candidates, with the probability of an untrained model and version 0 of epoch 0.

    They are counted by arm, logged at most every 30 s an arm, and said of the arm for a minute. What comes of them is
    learned and counted like any other answer: the user saw it, and the learner makes a prediction of its own.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._log_limit = LogLimit(clock=clock)
        self._latest: dict[str, tuple[float, str]] = {}
        self.counts: Counter[str] = Counter()
        """Arm → how many answers it could not give."""

    def answer(self, arm: str, candidates: int, reason: str) -> Answer:
        """Return the answer of an arm to so many candidates, for which it has none because of `reason`."""
        now = self._clock()
        self.counts[arm] += 1
        self._latest[arm] = now, reason
        if (held := self._log_limit.admit(arm, now=now)) is not None:
            log(_logger, "answers_not_finite", logging.ERROR, arm=arm, answers=held + 1, reason=reason)
        return Answer(arm, 0, 0, np.full(candidates, PRIOR, np.float32), np.arange(candidates))

    def notes(self) -> list[str]:
        """Return what is to be said of arms that could not answer within the last minute."""
        now = self._clock()
        return [
            f"arm {arm}: {self.counts[arm]} answers so far in the candidates' own order, since its model gave none"
            f" ({reason})"
            for arm, (at, reason) in sorted(self._latest.items())
            if now - at < _RECENT_S
        ]
