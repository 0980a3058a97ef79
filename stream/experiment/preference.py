"""The verdict on an interleaved arm, from its outcomes: which of the two rankings do its users prefer?"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stream.experiment.interleaving import Preference, prefer
from stream.experiment.statistics.intervals import Interval
from stream.experiment.verdict import LEAST_USERS, Verdict
from stream.schema.events import Outcome


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether A/B, where it compares the same two arms, says the same: for a program, and for a person."""

    kind: Literal["agree", "contradict", "open"]
    sentence: str


@dataclass(frozen=True, slots=True)
class Preferred:
    """What an interleaved arm says now. It may be asked at any time and acted on at any look.

    Attributes:
        arm: the interleaved arm.
        first: the arm that has won more of the requests.
        second: the other one.
        winner: `first` once its any-time p is at most alpha, None while that is not known.
        share: of the requests that either has won, those that `first` won; any-time interval over users.
        p: any-time p-value of "neither is preferred".
        users: who have won a request for either.
        requests: that either has won.
        sentence: the same for a person.
        agreement: whether A/B says the same; None where it was not asked, or does not compare the two.
    """

    arm: str
    first: str
    second: str
    winner: str | None
    share: Interval
    p: float
    users: int
    requests: int
    sentence: str
    agreement: Agreement | None = None


class Ballots:
    """Clicks of interleaved requests as votes, kept up to date; outcomes may come in any order and repeatedly.

    Only requests with a click are kept, some 500 bytes each: a request without one votes for nobody.
    """

    def __init__(self) -> None:
        self._clicked: dict[str, dict[tuple[str, str], dict[str, str]]] = {}

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the interleaved arms that have had a click, sorted."""
        return tuple(sorted(self._clicked))

    def add(self, outcome: Outcome) -> None:
        """Take an outcome; one that was not interleaved changes nothing."""
        if not outcome.team:
            return
        clicked = [item for item, label in zip(outcome.items, outcome.labels, strict=True) if label]
        self.click(outcome.arm, outcome.user, outcome.request_id, {outcome.team: clicked})

    def click(self, arm: str, user: str, request_id: str, clicked: Mapping[str, Iterable[str]]) -> None:
        """Take clicks in a request of an interleaved arm: team → those of its items that were clicked."""
        if teams := {item: team for team, items in clicked.items() for item in items}:
            self._clicked.setdefault(arm, {}).setdefault((user, request_id), {}).update(teams)

    def extend(self, outcomes: Iterable[Outcome]) -> None:
        """Take many outcomes."""
        for outcome in outcomes:
            self.add(outcome)

    def judge(self, arm: str, pair: tuple[str, str], *, alpha: float = 0.05) -> Preferred:
        """Return the verdict on an interleaved arm so far.

        A request votes for the arm that placed more of its clicked items. Votes of one user are not independent, so the
        variance is taken over users.

        Args:
            arm: the interleaved arm.
            pair: the two arms that it interleaves, as in its settings.
            alpha: the probability, over all looks, to name a winner where neither is preferred.
        """
        requests = self._clicked.get(arm, {})
        users = np.array([user for user, _ in requests])
        sides = {pair[0]: 1, pair[1]: -1}
        votes = np.array([sum(sides.get(team, 0) for team in by.values()) for by in requests.values()], dtype=np.int64)
        return _preferred(arm, pair, prefer(users, np.sign(votes), alpha=alpha))


def agreement(found: Preferred, verdict: Verdict) -> Agreement | None:
    """Return whether the A/B verdict on the same two arms says the same; None when it does not compare them."""
    both = {found.first, found.second}
    pair = next((each for each in verdict.pairs if {each.arm, each.against} == both), None)
    if pair is None:
        return None
    decided = pair.lift.low > 0 and not any(doubt.fatal for doubt in verdict.doubts)
    if found.winner is None and not decided:
        return Agreement("open", "neither interleaving nor A/B has decided")
    if found.winner is None:
        return Agreement("open", f"A/B prefers {pair.arm}, interleaving has not decided")
    if not decided:
        return Agreement("open", f"interleaving prefers {found.winner}, A/B has not decided")
    if pair.arm == found.winner:
        return Agreement("agree", f"interleaving and A/B both prefer {found.winner}")
    return Agreement("contradict", f"interleaving prefers {found.winner}, but A/B {pair.arm}: one of them misleads")


def _preferred(arm: str, pair: tuple[str, str], votes: Preference) -> Preferred:
    share, (first, second) = votes.preference, pair
    if share.value < 0.5:
        share, (first, second) = Interval(1 - share.value, 1 - share.high, 1 - share.low), (second, first)
    winner = first if votes.winner else None
    said = (
        f"{100 * share.value:.0f}% of the {votes.requests:,} requests with a preference, "
        f"of {votes.users:,} users (any time: {100 * share.low:.0f}% to {100 * share.high:.0f}%)"
    )
    if winner:
        sentence = f"{first} is preferred to {second}: it wins {said}"
    elif votes.users < LEAST_USERS:
        sentence = f"No preference yet: {votes.users} users have voted in {arm}; {LEAST_USERS} are needed"
    else:
        sentence = f"No preference yet: {first} against {second} wins {said}, which may be chance"
    return Preferred(arm, first, second, winner, share, votes.p, votes.users, votes.requests, sentence)
