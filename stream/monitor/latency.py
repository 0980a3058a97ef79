"""Latencies of answers as counts in classes that grow by a tenth: counts add up, and percentiles are within 5%."""

import math
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stream.monitor.records import AnswerCounts, AnswersPartial
from stream.schema.events import Score

_FIRST_MS = 0.1
_GROWTH = 1.1
CLASSES = 140
"""The last one begins at 57,000 ms and holds all that is above."""

_WINDOWS = 30
"""Windows of a partition that are kept; older ones are dropped."""


def class_of(latency_ms: float) -> int:
    """Return the class of a latency (ms)."""
    if latency_ms <= _FIRST_MS:
        return 0
    return min(CLASSES - 1, math.ceil(math.log(latency_ms / _FIRST_MS, _GROWTH)))


def percentile(counts: Iterable[Sequence[tuple[int, int]]], percent: float) -> float:
    """Return a percentile (ms) of the sum of several (class, count) lists; NaN where nothing was counted.

    It is the middle, in proportion, of the class in which it lies.
    """
    total = [0] * CLASSES
    for each in counts:
        for place, count in each:
            total[place] += count
    wanted = percent / 100 * sum(total)
    below = 0
    for place, count in enumerate(total):
        below += count
        if count and below >= wanted:
            return float(_FIRST_MS * _GROWTH ** (place - 0.5))
    return math.nan


class LatencyCounts:
    """Counts the answers that this process sees, by partition of `scores`, window and arm."""

    def __init__(self) -> None:
        self._run = uuid.uuid4().hex[:12]
        self._windows: dict[int, dict[int, dict[str, _Answered]]] = defaultdict(dict)
        self._changed: set[tuple[int, int]] = set()

    def add(self, partition: int, start: int, score: Score) -> None:
        """Count an answer in the window from `start` (ms); one for a window older than those kept is not counted."""
        windows = self._windows[partition]
        if start not in windows and len(windows) >= _WINDOWS:
            if start < min(windows):
                return
            del windows[min(windows)]
        arm = windows.setdefault(start, {}).setdefault(score.arm, _Answered())
        arm.counts[class_of(score.spent_ms.wait + score.spent_ms.state + score.spent_ms.score)] += 1
        arm.newest = max(arm.newest, (score.epoch, score.version))
        self._changed.add((partition, start))

    def take_changes(self) -> list[AnswersPartial]:
        """Return the windows that have changed since the last call, each with all that was counted in it."""
        changed = [
            AnswersPartial(
                self._run,
                partition,
                start,
                {
                    name: AnswerCounts(sorted(arm.counts.items()), *arm.newest)
                    for name, arm in self._windows[partition].get(start, {}).items()
                },
            )
            for partition, start in sorted(self._changed)
        ]
        self._changed.clear()
        return changed


@dataclass(slots=True)
class _Answered:
    """Answers of an arm in a window: latency class → how many, and the newest (epoch, version)."""

    counts: Counter[int] = field(default_factory=Counter)
    newest: tuple[int, int] = (0, 0)
