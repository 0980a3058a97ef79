"""Impressions for which it is known what every arm would have shown: what off-policy estimates are computed from.

A score with `shadows` names the ranking of each arm with `shadow = true`, at the moment of the answer and from the same
history. So with every serving arm as a shadow of the others, the probability that a user was shown something follows
from the shares alone: users are assigned at random, and given the arm, what is shown is deterministic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stream.schema.dedup import request_hash
from stream.schema.events import Outcome, Score


@dataclass(frozen=True, slots=True)
class LoggedImpression:
    """What was shown, what was clicked, and what every arm would have shown.

    Attributes:
        user: whose it was.
        arm: that answered.
        slates: arm → the candidates that it shows, or would have shown, best first; all of one length.
        clicked: places in the answering arm's slate.
        predicted: arm → the probabilities of its own model, one for each of its slate.
        shares: arm → the probability that the user was in it then, with a bandit; else empty.
    """

    user: str
    arm: str
    slates: Mapping[str, Sequence[int]]
    clicked: frozenset[int]
    predicted: Mapping[str, Sequence[float]]
    shares: Mapping[str, float] = field(default_factory=dict)


class ShadowLog:
    """Joins scores with the outcomes that count; records may come in any order. An impression takes about 1 kB."""

    def __init__(self) -> None:
        self._impressions: dict[int, LoggedImpression] = {}
        self._clicked: dict[int, set[int]] = {}

    def add_score(self, score: Score) -> None:
        """Add an answer; interleaved ones do not count. An answer that was written twice counts once."""
        if score.teams:
            return
        slates = {shadow.arm: tuple(shadow.order) for shadow in score.shadows}
        predicted = {shadow.arm: tuple(shadow.probabilities) for shadow in score.shadows}
        slates[score.arm] = shown = tuple(score.order[: score.slots])
        predicted[score.arm] = tuple(score.probabilities[index] for index in shown)
        asked = LoggedImpression(score.user, score.arm, slates, frozenset(), predicted, score.shares)
        self._impressions.setdefault(request_hash(score.request), asked)

    def add_counted(self, outcome: Outcome, indices: Sequence[int], _first: bool) -> None:
        """Add those items of an outcome that count (`Ledger.on_counted`)."""
        clicked = self._clicked.setdefault(request_hash(outcome.request), set())
        clicked.update(outcome.positions[index] for index in indices if outcome.labels[index])

    @property
    def without_score(self) -> int:
        """Requests whose outcomes were read, and whose score was not: Kafka keeps scores for a shorter time."""
        return len(self._clicked.keys() - self._impressions.keys())

    def impressions(self) -> list[LoggedImpression]:
        """Return the impressions of which both the score and the outcomes are known."""
        return [
            replace(asked, clicked=frozenset(self._clicked[request]))
            for request, asked in self._impressions.items()
            if request in self._clicked
        ]
