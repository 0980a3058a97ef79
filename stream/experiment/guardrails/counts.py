"""What guardrails are judged on: answers, requests, predictions and actions, counted as records are read."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass, field

import numpy as np

from stream.experiment.serving_cost import ServingCosts
from stream.experiment.statistics.moments import Array, Floats
from stream.schema.dedup import request_hash
from stream.schema.events import Behavior, Impression, Outcome, Score
from stream.settings.guardrail import Guardrail

ANSWER_MS = 60_000
"""An impression counts as unanswered when it is older than this and there is no score."""

UNIT_MS = 60_000
"""Answers of one minute count as one unit: slow and missing answers come in bursts."""

_NOTHING = np.zeros((0, 2))


@dataclass(slots=True)
class _Events:
    """Who did something, and when: an integer and ms since the epoch of each."""

    users: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, user: int, ts: int) -> None:
        self.users.append(user)
        self.times.append(ts)


class GuardrailCounts:
    """Counts for guardrails; records may come in any order. A request, an action or a user takes some 30 bytes.

    Args:
        guardrails: those that are judged.
        answers: latencies of the answers, which somebody else adds.
        within: whether a time (ms) is within the experiment.
        arm_of: the arm of a user, for impressions that nobody has answered.
        users: whose outcomes count; None for all. Whoever adds the rest knows by itself.
        now: time (ms) at which reading began: what is too new to be complete then does not count. Whoever reads on
            moves it.
    """

    def __init__(
        self,
        guardrails: Sequence[Guardrail],
        answers: ServingCosts,
        *,
        within: Callable[[int], bool],
        arm_of: Callable[[str], str],
        now: int,
        users: Container[str] | None = None,
    ) -> None:
        self._counted = users
        self.scores_from = 0
        """Scores of earlier impressions (ms) may have been removed by Kafka, so these do not count as unanswered."""
        metrics = {each.metric for each in guardrails}
        self.wants_impressions = "unanswered" in metrics
        """Whether the topic `impressions` is needed."""
        self.wants_behaviors = "action" in metrics
        """Whether the topic `behaviors` is needed."""
        self._wants_predictions = "calibration" in metrics
        self._answers, self._within, self._arm_of = answers, within, arm_of
        self.now = now
        self._actions = {each.action: _Events() for each in guardrails if each.metric == "action"}
        self._impressions = _Events()
        self._users: dict[str, int] = {}
        self._predicted: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._asked: dict[str, dict[int, int]] = defaultdict(dict)
        self._answered = array("Q")

    def add_counted(self, outcome: Outcome, indices: Sequence[int], first: bool) -> None:
        """Add those items of an outcome that count; `first` says whether they are the first of their request."""
        if self._counted is not None and outcome.user not in self._counted:
            return
        if self._wants_predictions:
            sums = self._predicted[outcome.user]
            sums[0] += sum(outcome.labels[index] for index in indices)
            sums[1] += sum(outcome.probabilities[index] for index in indices)
        if self.wants_behaviors and first:
            self._impressions.add(self._user(outcome.user), outcome.ts)

    def add_score(self, score: Score) -> None:
        """Add an answer."""
        if self.wants_impressions and self._within(score.ts):
            self._answered.append(request_hash(score.request))

    def add_impression(self, impression: Impression) -> None:
        """Add a request."""
        if self._within(impression.ts):
            self._asked[self._arm_of(impression.user)][request_hash(impression.request)] = impression.ts

    def add_behavior(self, behavior: Behavior) -> None:
        """Add a behaviour; it counts if it is one of the actions, and soon enough after an impression."""
        if (events := self._actions.get(behavior.action)) is not None:
            events.add(self._user(behavior.user), behavior.ts)

    def slow(self, arm: str, limit_ms: float) -> Floats:
        """Return (minutes, 2) answers, and those of them slower than `limit_ms`, in each minute with any."""
        times = self._answers.arms[arm]
        return _by_minute(np.array(times.at, dtype=np.int64), times.latencies() > limit_ms)

    def unanswered(self, arm: str) -> Floats:
        """Return (minutes, 2) impressions, and those of them without an answer, in each minute with any."""
        latest = self.now - ANSWER_MS
        asked = {request: ts for request, ts in self._asked[arm].items() if self.scores_from <= ts <= latest}
        missing = ~np.isin(np.array(list(asked), dtype=np.uint64), np.array(self._answered, dtype=np.uint64))
        return _by_minute(np.array(list(asked.values()), dtype=np.int64), missing)

    def predictions(self, users: Collection[str]) -> Floats:
        """Return (users, 2) clicks, and the sum of the probabilities with which their items were served."""
        return np.array([self._predicted[user] for user in users if user in self._predicted] or _NOTHING)

    def actions(self, users: Collection[str], action: str, within_s: float) -> Floats:
        """Return (users, 2) impressions, and actions at most `within_s` after one of them; each action counts once.

        Impressions whose time for an action was not over when reading began do not count, nor what follows them.
        """
        wanted = {row: place for place, row in enumerate(self._users[user] for user in users if user in self._users)}
        within = round(1000 * within_s)
        shown_users, shown_times = _columns(self._impressions, wanted)
        over = shown_times <= self.now - within
        shown_users, shown_times = shown_users[over], shown_times[over]
        if not len(shown_users):
            return _NOTHING
        done_users, done_times = _columns(self._actions[action], wanted)
        near = (done_times >= (begin := shown_times.min())) & (done_times <= shown_times.max() + within)
        done_users, done_times = done_users[near], done_times[near]
        # One number for user and time, in which users are further apart than any two of these times and a window.
        span = shown_times.max() - begin + 2 * within + 1
        shown = np.sort(shown_users * span + shown_times - begin)
        done = done_users * span + done_times - begin
        before = np.searchsorted(shown, done, side="right") - 1
        counted = (before >= 0) & (done - shown[np.maximum(before, 0)] <= within)
        impressions = np.bincount(shown_users, minlength=len(wanted))
        actions = np.bincount(done_users[counted], minlength=len(wanted))
        return np.stack([impressions, actions], axis=1)[impressions > 0].astype(np.float64)

    def _user(self, user: str) -> int:
        return self._users.setdefault(user, len(self._users))


def _columns(events: _Events, places: dict[int, int]) -> tuple[Array, Array]:
    """The events of the wanted users: the places of the users, and the times."""
    users, times = np.array(events.users, dtype=np.int64), np.array(events.times, dtype=np.int64)
    if not len(users) or not places:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    table = np.full(max(int(users.max()), max(places)) + 1, -1, dtype=np.int64)
    table[list(places)] = list(places.values())
    mine = table[users]
    return mine[mine >= 0], times[mine >= 0]


def _by_minute(times: Array, marked: Array) -> Floats:
    """(minutes, 2) events and marked events of each minute with any."""
    _, groups = np.unique(times // UNIT_MS, return_inverse=True)
    return np.stack([np.bincount(groups), np.bincount(groups, weights=marked)], axis=1).astype(np.float64)
