"""Takes records of live traffic into what an experiment is judged on. Knows no Kafka client."""

from collections.abc import Callable, Container, Iterable

from stream.experiment.guardrails.counts import GuardrailCounts
from stream.experiment.ledger import Ledger, ReadSummary
from stream.experiment.serving_cost import ServingCosts
from stream.schema.erasures import Erasures, Voids
from stream.schema.events import (
    DECODE_ERRORS,
    Score,
    decode_behavior,
    decode_impression,
    decode_outcome,
    decode_score,
)
from stream.schema.record import Record
from stream.schema.topics import Topics


class Traffic:
    """Counts records of `outcomes` and `scores`, and of `impressions` and `behaviors` where guardrails need them.

    What is void since its user was erased is left out: outcomes, actions, and what `on_score` takes. Latencies and
    unanswered impressions are counted by the minute, whosever they are.

    Args:
        topics: the names.
        ledger: takes the outcomes, and decides which times count.
        answers: takes the scores of those times.
        erasures: the users who were erased.
        found: takes note of what is met.
        guardrails: takes what the guardrails are judged on.
        on_score: takes the scores of those times as well, of all users.
        users: whose scores, impressions and behaviors count; None for all. The ledger knows by itself.
        scores_cut: partitions of `scores` whose oldest records Kafka has removed: no impression from before the first
            that is left counts as unanswered.
    """

    def __init__(
        self,
        topics: Topics,
        ledger: Ledger,
        answers: ServingCosts,
        erasures: Erasures,
        found: ReadSummary,
        *,
        guardrails: GuardrailCounts | None = None,
        on_score: Callable[[Score], None] | None = None,
        users: Container[str] | None = None,
        scores_cut: Iterable[int] = (),
    ) -> None:
        self._scores_cut = set(scores_cut)
        self._topics, self._ledger, self._answers, self._erasures = topics, ledger, answers, erasures
        self._found, self._guardrails, self._on_score, self._users = found, guardrails, on_score, users
        self._voids: dict[int, Voids] = {}

    @staticmethod
    def wanted(topics: Topics, guardrails: GuardrailCounts | None) -> list[str]:
        """Return the topics that are to be read."""
        wanted = [topics.outcomes, topics.scores]
        if guardrails is not None:
            wanted += [topics.impressions] * guardrails.wants_impressions
            wanted += [topics.behaviors] * guardrails.wants_behaviors
        return wanted

    def take(self, record: Record) -> None:
        """Take a record; those of a partition must come in its order."""
        try:
            if record.topic == self._topics.scores:
                self._take_score(record)
            elif record.topic == self._topics.outcomes:
                self._take_outcome(record)
            elif self._guardrails is not None and record.topic == self._topics.impressions:
                impression = decode_impression(record.value or b"")
                if self._counts(impression.user):
                    self._guardrails.add_impression(impression)
            elif self._guardrails is not None and record.topic == self._topics.behaviors:
                behavior = decode_behavior(record.value or b"")
                if self._counts(behavior.user) and not self._void(record).behavior(behavior.user, record.offset):
                    self._guardrails.add_behavior(behavior)
        except DECODE_ERRORS:
            self._found.unreadable += record.topic == self._topics.outcomes

    def _take_score(self, record: Record) -> None:
        score = decode_score(record.value or b"")
        if self._ledger.within(score.ts):
            if self._counts(score.user):
                self._answers.add(score)
            if self._on_score is not None and not self._void(record).answer(score.user, score.read_to):
                self._on_score(score)
        if self._guardrails is not None:
            self._guardrails.add_score(score)
            if record.partition in self._scores_cut:
                self._scores_cut.remove(record.partition)
                self._guardrails.scores_from = max(self._guardrails.scores_from, record.timestamp)

    def _take_outcome(self, record: Record) -> None:
        self._found.outcomes += 1
        outcome = decode_outcome(record.value or b"")
        if self._void(record).answer(outcome.user, outcome.read_to):
            self._found.erased += 1
        else:
            self._ledger.add(record.partition, outcome)

    def _counts(self, user: str) -> bool:
        return self._users is None or user in self._users

    def _void(self, record: Record) -> Voids:
        """What is void in the record's partition, by the erasures that are known."""
        if record.partition not in self._voids:
            self._voids[record.partition] = Voids(self._erasures.of(record.partition))
        found = self._voids[record.partition]
        if found.waiting:
            found.take()
        return found
