"""Counts outcomes of an experiment: each (request, item) once, and only when its request's window has closed.

A click is an outcome at once; the other items are outcomes when the window closes. So the newest impressions have
clicks alone, and would bias every arm upwards. Windows of a partition close in the order of time: an outcome without a
click says that all earlier requests are complete. Knows no Kafka.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

import numpy as np

from model.metrics import log_losses
from state.behavior import item_key
from stream.experiment.interleaving import InterleavingVotes
from stream.experiment.user_sums import UserSums
from stream.schema.dedup import RecentIds, request_hash, sample_ids
from stream.schema.events import Outcome

_BATCH = 50_000

OnCounted = Callable[[Outcome, Sequence[int], bool], None]
"""Takes an outcome, which of its items count, and whether they are the first of their request."""


@dataclass(slots=True)
class ArmTotals:
    """Impressions of an arm, items shown in them, summed log loss of these, and the newest model that answered."""

    impressions: int = 0
    shown: int = 0
    loss: float = 0.0
    newest: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class _Waiting:
    """Outcomes of a partition whose request may be incomplete."""

    closed: int = -1
    """Newest time (ms) of an impression whose window has closed."""
    outcomes: list[tuple[int, int, Outcome]] = field(default_factory=list)


@dataclass(slots=True)
class ReadSummary:
    """How many outcomes were read, and what was missing.

    Attributes:
        outcomes: records read.
        unreadable: records that could not be decoded.
        partitions: partitions of the topic `outcomes`.
        truncated_partitions: partitions from which retention has removed records that may belong to the report.
        complete_from: newest record time (ms) with which such a partition begins: from then on nothing is missing. 0
            when nothing is anyway.
        missing: records of any topic that retention removed while they were read.
        erased: outcomes that were left out, as their users were erased since.
    """

    outcomes: int = 0
    unreadable: int = 0
    partitions: int = 0
    truncated_partitions: int = 0
    complete_from: int = 0
    missing: int = 0
    erased: int = 0


class Ledger:
    """Counts the outcomes of an experiment; those of a partition must come in its order.

    Times are ms since the epoch, of impressions.

    Args:
        since: earlier impressions do not count; None counts all.
        until: impressions from then on do not count; None counts all.
        before: start of the pre-experiment period, which ends at `since`; None for no such period.
        dedup_window: how many of the newest labelled items are kept to recognise repeats.
        users: those whose sums are kept; None for all.
    """

    def __init__(
        self,
        *,
        since: int | None = None,
        until: int | None = None,
        before: int | None = None,
        dedup_window: int = 4_000_000,
        users: Container[str] | None = None,
    ) -> None:
        self._users = users
        self._since, self._until, self._before = since, until, before
        self._seen = RecentIds(dedup_window)
        self._waiting: dict[int, _Waiting] = defaultdict(_Waiting)
        self._batches: dict[str, list[tuple[str, int, int, int]]] = defaultdict(list)
        self._earlier: list[tuple[str, int, int]] = []
        self._sums = UserSums()
        self._order = 0
        self.arms: dict[str, ArmTotals] = defaultdict(ArmTotals)
        self.repeated = 0
        """Items that came again and were not counted again."""
        self.on_counted: OnCounted | None = None
        """Hears of each outcome that counts, of all users: which of its items do, and whether they are the first of
        their request."""
        self.interleaving_votes = InterleavingVotes()
        """Votes of the interleaved requests that count."""
        self.first, self.last = math.inf, -math.inf
        """Times of the first and the last impression that counts."""

    def add(self, partition: int, outcome: Outcome) -> None:
        """Add an outcome; it counts once its request's window has closed."""
        waiting = self._waiting[partition]
        if 0 in outcome.labels and outcome.ts > waiting.closed:
            waiting.closed = outcome.ts
        self._order += 1
        heapq.heappush(waiting.outcomes, (outcome.ts, self._order, outcome))
        while waiting.outcomes and waiting.outcomes[0][0] <= waiting.closed:
            self._count(heapq.heappop(waiting.outcomes)[2])

    @property
    def open(self) -> int:
        """Requests with clicks whose window has not closed."""
        return len({outcome.request for each in self._waiting.values() for _, _, outcome in each.outcomes})

    @property
    def sums(self) -> UserSums:
        """What each user was shown and clicked."""
        for arm in list(self._batches):
            self._flush(arm)
        if self._earlier:
            self._sums.add_before(*(list(column) for column in zip(*self._earlier, strict=True)))
            self._earlier.clear()
        return self._sums

    def within(self, ts: int) -> bool:
        """Say whether a time (ms) is within the experiment."""
        return (self._since is None or ts >= self._since) and (self._until is None or ts < self._until)

    def _count(self, outcome: Outcome) -> None:
        earlier = self._before is not None and self._since is not None and self._before <= outcome.ts < self._since
        if not (earlier or self.within(outcome.ts)):
            return
        items = np.array([item_key(item) for item in outcome.items], dtype=np.uint64)
        request = np.array([request_hash(outcome.request)], dtype=np.uint64)
        first, *fresh = self._seen.add(np.concatenate([request, sample_ids(outcome.request, items)])).tolist()
        new = [index for index, unseen in enumerate(fresh) if unseen]
        self.repeated += len(fresh) - len(new)
        shown, clicks = len(new), sum(outcome.labels[index] for index in new)
        if not shown:
            return
        if self.on_counted is not None and not earlier:
            self.on_counted(outcome, new, bool(first))
        if self._users is not None and outcome.user not in self._users:
            return
        if earlier:
            self._earlier.append((outcome.user, shown, clicks))
            return
        self.interleaving_votes.add(outcome)
        arm = self.arms[outcome.arm]
        arm.impressions += first
        arm.shown += shown
        labels, probabilities = np.array(outcome.labels, dtype=np.float64), np.array(outcome.probabilities)
        arm.loss += float(log_losses(labels[new], probabilities[new]).sum())
        arm.newest = max(arm.newest, (outcome.epoch, outcome.version))
        self.first, self.last = min(self.first, outcome.ts), max(self.last, outcome.ts)
        batch = self._batches[outcome.arm]
        batch.append((outcome.user, shown, clicks, outcome.ts))
        if len(batch) >= _BATCH:
            self._flush(outcome.arm)

    def _flush(self, arm: str) -> None:
        if batch := self._batches.pop(arm, None):
            users, shown, clicks, times = (list(column) for column in zip(*batch, strict=True))
            self._sums.extend(arm, users, shown, clicks, times)
