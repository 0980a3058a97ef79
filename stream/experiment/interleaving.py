"""Side-draft interleaving: two rankings in one list, and clicks as votes (Radlinski, Kurup and Joachims, CIKM 2008).

Every user compares both rankings in every request, so differences between users cancel, and far fewer requests tell
which ranking is better than an A/B test needs. It says which, not by how much: a vote is no click rate, and an arm that
learns from its users learns from what the other one showed too.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, Literal, TypeVar

import numpy as np
from xxhash import xxh3_64_intdigest

from stream.experiment.statistics.confidence_sequence import mixture_scale, p_value, radius
from stream.experiment.statistics.effect import click_rate, effective_users
from stream.experiment.statistics.intervals import Interval
from stream.experiment.statistics.moments import Array, Moments
from stream.experiment.verdict import MIN_USERS, Verdict
from stream.schema.events import Outcome

Item = TypeVar("Item", bound=Hashable)
Side = Literal["a", "b"]

EXPECTED_PREFERENCE = 0.05
"""Distance of the preference from a half for which the any-time interval is narrowest."""


@dataclass(frozen=True, slots=True)
class InterleavedList(Generic[Item]):
    """One list made of two: its items, best first, and which ranking drafted each."""

    items: tuple[Item, ...]
    teams: tuple[Side, ...]


def interleave(a: Sequence[Item], b: Sequence[Item], slots: int, coin: Callable[[], bool]) -> InterleavedList[Item]:
    """Draft a list of up to `slots` items from two rankings, best first.

    The ranking that has drafted fewer items goes next; at equal numbers `coin` says whether it is `a`. Each drafts its
    best item that is not in the list yet. A ranking that has none left is passed over.
    """
    items: list[Item] = []
    teams: list[Side] = []
    taken: set[Item] = set()
    left: dict[Side, Iterator[Item]] = {"a": iter(a), "b": iter(b)}
    ahead = 0
    while len(items) < slots:
        first: Side = "a" if ahead < 0 or (ahead == 0 and coin()) else "b"
        second: Side = "b" if first == "a" else "a"
        for team in (first, second):
            item = next((item for item in left[team] if item not in taken), None)
            if item is not None:
                items.append(item)
                teams.append(team)
                taken.add(item)
                ahead += 1 if team == "a" else -1
                break
        else:
            break
    return InterleavedList(tuple(items), tuple(teams))


def seeded_coin(request: str) -> Callable[[], bool]:
    """Return a fair coin whose throws follow from the request alone, so that a repeated answer is the same.

    Args:
        request: tells requests apart, such as `RequestKey.text`.
    """
    throws = count()
    return lambda: bool(xxh3_64_intdigest(request.encode(), seed=next(throws)) & 1)


def vote(mixed: InterleavedList[Item], clicked: Collection[Item]) -> int:
    """Return 1 when more of the clicked items were drafted by `a`, −1 when by `b`, 0 when neither."""
    votes = [1 if team == "a" else -1 for item, team in zip(mixed.items, mixed.teams, strict=True) if item in clicked]
    return int(np.sign(sum(votes)))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether A/B, where it compares the same two arms, says the same: for a program, and for a person."""

    kind: Literal["agree", "contradict", "open"]
    sentence: str


@dataclass(frozen=True, slots=True)
class Preference:
    """The verdict on an interleaved arm so far. It may be asked at any time and acted on at any look.

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


def preference(
    users: Array, votes: Array, pair: tuple[str, str] = ("a", "b"), *, arm: str = "", alpha: float
) -> Preference:
    """Return which of two rankings users prefer.

    Requests without a preference are left out, as in any sign test. Votes of one user are not independent, so the
    variance is taken over users.

    Args:
        users: (n,) whose request each is; integers or strings.
        votes: (n,) 1 where the first ranking of the pair won the request, −1 where the second did, 0 where neither.
        pair: names of the two rankings.
        arm: name of the arm that interleaves them.
        alpha: the probability, over all looks, to name a winner where neither is preferred.
    """
    decided = votes != 0
    who, won = np.asarray(users)[decided], (votes[decided] > 0).astype(np.float64)
    moments = Moments.of_observations(who, np.ones(len(won)), won)
    rate, scale = click_rate(moments), mixture_scale(EXPECTED_PREFERENCE, alpha)
    p, voters = 1.0, int(moments.count)
    if effective_users(moments) >= MIN_USERS:
        p = float(p_value(rate.value - 0.5, rate.variance, scale))
    value, half = float(rate.value), float(radius(rate.variance, scale, alpha))
    share, (first, second) = Interval(value, value - half, value + half), pair
    if value < 0.5:
        share, (first, second) = Interval(1 - value, 1 - share.high, 1 - share.low), (second, first)
    winner = first if p <= alpha else None
    said = (
        f"{100 * share.value:.0f}% of the {len(won):,} requests with a preference, "
        f"of {voters:,} users (any time: {100 * share.low:.0f}% to {100 * share.high:.0f}%)"
    )
    if winner:
        sentence = f"{first} is preferred to {second}: it wins {said}"
    elif voters < MIN_USERS:
        sentence = f"No preference yet: {voters} users have voted in {arm}; {MIN_USERS} are needed"
    else:
        sentence = f"No preference yet: {first} against {second} wins {said}, which may be chance"
    return Preference(arm, first, second, winner, share, p, voters, len(won), sentence)


class InterleavingVotes:
    """Clicks of interleaved requests as votes, kept up to date; outcomes may come in any order and repeatedly.

    Only requests with a click are kept, some 500 bytes each: a request without a click has no vote.
    """

    def __init__(self) -> None:
        self._clicked: dict[str, dict[tuple[str, str], dict[str, str]]] = {}

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the interleaved arms that have had a click, sorted."""
        return tuple(sorted(self._clicked))

    def add(self, outcome: Outcome) -> None:
        """Add an outcome; one that was not interleaved changes nothing."""
        if not outcome.team:
            return
        clicked = [item for item, label in zip(outcome.items, outcome.labels, strict=True) if label]
        self.click(outcome.arm, outcome.user, outcome.request_id, {outcome.team: clicked})

    def click(self, arm: str, user: str, request_id: str, clicked: Mapping[str, Iterable[str]]) -> None:
        """Add clicks in a request of an interleaved arm: team → those of its items that were clicked."""
        if teams := {item: team for team, items in clicked.items() for item in items}:
            self._clicked.setdefault(arm, {}).setdefault((user, request_id), {}).update(teams)

    def analyse(self, arm: str, pair: tuple[str, str], *, alpha: float) -> Preference:
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
        return preference(users, np.sign(votes), pair, arm=arm, alpha=alpha)


def agreement(found: Preference, verdict: Verdict) -> Agreement | None:
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
