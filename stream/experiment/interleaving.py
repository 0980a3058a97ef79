"""Team-draft interleaving: two rankings in one list, and clicks as votes (Radlinski, Kurup and Joachims, CIKM 2008).

Every user compares both rankings in every request, so differences between users cancel, and far fewer requests tell
which ranking is better than an A/B test needs. It says which, not by how much: a vote is no click rate, and an arm that
learns from its users learns from what the other one showed too.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, Literal, TypeVar

import numpy as np
from scipy.stats import binomtest
from xxhash import xxh3_64_intdigest

from stream.experiment.statistics.confidence_sequence import half_width, p_value, spread_for
from stream.experiment.statistics.effect import click_rate, effective_users
from stream.experiment.statistics.intervals import Interval
from stream.experiment.statistics.moments import Array, Moments
from stream.experiment.verdict import LEAST_USERS

Item = TypeVar("Item", bound=Hashable)
Team = Literal["a", "b"]

EXPECTED_PREFERENCE = 0.05
"""Distance of the preference from a half for which the any-time interval is narrowest."""


@dataclass(frozen=True, slots=True)
class Mixed(Generic[Item]):
    """One list made of two: its items, best first, and which ranking drafted each."""

    items: tuple[Item, ...]
    teams: tuple[Team, ...]


def interleave(a: Sequence[Item], b: Sequence[Item], slots: int, coin: Callable[[], bool]) -> Mixed[Item]:
    """Draft a list of up to `slots` items from two rankings, best first.

    The ranking that has drafted fewer items goes next; at equal numbers `coin` says whether it is `a`. Each drafts its
    best item that is not in the list yet. A ranking that has none left is passed over.
    """
    items: list[Item] = []
    teams: list[Team] = []
    taken: set[Item] = set()
    left: dict[Team, Iterator[Item]] = {"a": iter(a), "b": iter(b)}
    ahead = 0
    while len(items) < slots:
        first: Team = "a" if ahead < 0 or (ahead == 0 and coin()) else "b"
        second: Team = "b" if first == "a" else "a"
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
    return Mixed(tuple(items), tuple(teams))


def seeded_coin(request: str) -> Callable[[], bool]:
    """Return a fair coin whose throws follow from the request alone, so that a repeated answer is the same.

    Args:
        request: tells requests apart, such as `RequestKey.text`.
    """
    throws = count()
    return lambda: bool(xxh3_64_intdigest(request.encode(), seed=next(throws)) & 1)


def vote(mixed: Mixed[Item], clicked: Collection[Item]) -> int:
    """Return 1 when more of the clicked items were drafted by `a`, −1 when by `b`, 0 when neither."""
    votes = [1 if team == "a" else -1 for item, team in zip(mixed.items, mixed.teams, strict=True) if item in clicked]
    return int(np.sign(sum(votes)))


@dataclass(frozen=True, slots=True)
class Preference:
    """Which ranking users prefer.

    Attributes:
        winner: `a` or `b`, when the any-time p is at most alpha; None while that is not known.
        preference: share of the requests that `a` won, of those that one of them won; any-time interval over users.
        p: any-time p-value of "neither is preferred".
        sign_p: p-value of the exact sign test over users, each with the one vote of their majority, for one look.
        users: who have won a request for either.
        requests: that either has won.
    """

    winner: Team | None
    preference: Interval
    p: float
    sign_p: float
    users: int
    requests: int


def prefer(users: Array, votes: Array, *, alpha: float = 0.05) -> Preference:
    """Return the verdict on requests of users (integers or strings) with votes of −1, 0 or 1; both are (n,).

    Requests without a preference are left out, as in any sign test. Votes of one user are not independent, so the
    variance is taken over users.
    """
    decided = votes != 0
    if not decided.any():
        return Preference(None, Interval(np.nan, np.nan, np.nan), 1.0, 1.0, 0, 0)
    who, won = np.asarray(users)[decided], (votes[decided] > 0).astype(np.float64)
    moments = Moments.of_observations(who, np.ones(len(won)), won)
    share, spread = click_rate(moments), spread_for(EXPECTED_PREFERENCE, alpha)
    half = float(half_width(share.variance, spread, alpha))
    value, voters = float(share.value), int(moments.count)
    ready = effective_users(moments) >= LEAST_USERS
    p = float(p_value(share.value - 0.5, share.variance, spread)) if ready else 1.0
    _, group = np.unique(who, return_inverse=True)
    majority = np.sign(np.bincount(group, weights=2 * won - 1))
    for_a, against = int(np.sum(majority > 0)), int(np.sum(majority < 0))
    sign_p = float(binomtest(for_a, for_a + against).pvalue) if for_a + against else 1.0
    winner: Team | None = None if p > alpha else "a" if value > 0.5 else "b"
    return Preference(winner, Interval(value, value - half, value + half), p, sign_p, voters, len(won))
