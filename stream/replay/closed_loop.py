"""The steps of one partition as a closed loop: each waits until the visit before it is answered and labelled."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stream.datasets.base import Step, Visit
from stream.errors import ReplayError
from stream.schema.events import Behavior, Click, Impression, RequestKey
from stream.schema.topics import Topics

ANSWER_TIMEOUT_S = 60.0
"""Seconds that an answer, a label or the trainer may take."""

Send = Callable[[str, Behavior | Click | Impression], None]
"""Sends an event to a topic, with its user as the key."""


@dataclass(slots=True)
class ReplayCounts:
    """What a replay has done so far.

    Attributes:
        behaviors: behaviours sent.
        visits: visits that are answered and labelled, and whose behaviours are sent.
        clicks: clicks sent.
        samples: candidates of the impressions sent.
        trained: samples that the trainer announced as learned.
        dead_letters: records that were refused.
        impression_times: event times (ms) of the impressions sent.
    """

    behaviors: int = 0
    visits: int = 0
    clicks: int = 0
    samples: int = 0
    trained: int = 0
    dead_letters: int = 0
    impression_times: list[int] = field(default_factory=list)


class ClosedLoop:
    """Sends the steps of one partition, one visit at a time: impression, clicks, then behaviours.

    Args:
        send: sends an event.
        topics: the names.
        counts: shared by all partitions.
        clock: seconds.
    """

    def __init__(
        self, send: Send, topics: Topics, counts: ReplayCounts, *, clock: Callable[[], float] = time.monotonic
    ):
        self._send = send
        self._topics = topics
        self._counts = counts
        self._clock = clock
        self._waiting: deque[Step] = deque()
        self._visit: Visit | None = None
        self._answered = False
        self._unlabelled: set[str] = set()
        self._sent_at = 0.0

    @property
    def waiting(self) -> int:
        """How many steps are not sent yet."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a visit is open or a step is waiting."""
        return self._visit is not None or bool(self._waiting)

    def add(self, step: Step) -> None:
        """Take the next step of this partition."""
        self._waiting.append(step)

    def advance(self) -> None:
        """Send what may be sent now: the behaviours of a visit that is complete, and steps up to the next visit.

        Raises:
            ReplayError: when the answer or the labels of the open visit do not come within a minute.
        """
        if self._visit is not None:
            if not self._answered or self._unlabelled:
                self._check_time(self._visit)
                return
            self._send_behaviors(self._visit)
            self._visit = None
            self._counts.visits += 1
        while self._waiting and self._visit is None:
            step = self._waiting.popleft()
            if isinstance(step, Visit):
                self._open(step)
            else:
                self._send_behaviors(step)

    def take_answer(self, request: RequestKey) -> None:
        """Take an answer: to the open visit, its clicks are sent; any other is ignored."""
        if self._visit is None or self._answered or request != self._visit.impression.request:
            return
        self._answered = True
        for click in self._visit.clicks:
            self._send(self._topics.clicks, click)
        self._counts.clicks += len(self._visit.clicks)

    def take_labels(self, request: RequestKey, items: Iterable[str]) -> None:
        """Take labels; those of other requests than the open visit are ignored."""
        if self._visit is not None and request == self._visit.impression.request:
            self._unlabelled.difference_update(items)

    def _open(self, visit: Visit) -> None:
        impression = visit.impression
        self._visit, self._answered, self._sent_at = visit, False, self._clock()
        self._unlabelled = {click.item for click in visit.clicks}
        self._send(self._topics.impressions, impression)
        self._counts.samples += len(impression.candidates)
        self._counts.impression_times.append(impression.ts)

    def _send_behaviors(self, step: Step) -> None:
        for behavior in step.behaviors:
            self._send(self._topics.behaviors, behavior)
        self._counts.behaviors += len(step.behaviors)

    def _check_time(self, visit: Visit) -> None:
        if self._clock() - self._sent_at > ANSWER_TIMEOUT_S:
            missing = f"labels of {sorted(self._unlabelled)}" if self._answered else "score"
            raise ReplayError(
                f"no {missing} for request {visit.impression.request_id} after {ANSWER_TIMEOUT_S:.0f} s:"
                " see the worker's log"
            )
