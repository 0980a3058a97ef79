"""Which arm a user is in at a time, by the shares in force: the arms' own, a ramp's, or a bandit's."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from stream.experiment.assignment import Assignment
from stream.schema.shares import SharesStep
from stream.settings import Settings

_ROUNDING = 1e-9
_FROM_FILE: Mapping[str, float] = {}


class Explorers:
    """The users from whom alone a bandit learns: by a hash that has nothing to do with the one that decides the arm.

    Let h be XXH3-64 (seed 0) of the UTF-8 bytes of `salt:?:user` (no arm is named `?`), as an unsigned number; a user
    explores when (h + 1) / 2⁶⁴ is at most the share.

    >>> "anybody" in Explorers(salt="s", share=1.0)
    True
    """

    def __init__(self, *, salt: str, share: float) -> None:
        self._prefix, self._share = f"{salt}:?:", share

    def __contains__(self, user: object) -> bool:
        """Say whether a user explores."""
        return self._share >= 1 or (xxh3_64_intdigest(f"{self._prefix}{user}".encode()) + 1) / 2**64 <= self._share


class Assigned(NamedTuple):
    """A user's arm, and with a bandit the probability of each arm for this user then; else no probabilities."""

    arm: str
    shares: Mapping[str, float]


class SharesInForce:
    """Assigns users to arms by the shares at an impression's own time, so that a repeated answer has the same arm.

    With a bandit those who explore are divided by the arms' own shares for good. For the others there are steps. A step
    that is added counts under the conditions in `SharesStep`, if it names exactly the arms that serve, and leaves each
    its floor. One thread may add while another asks.

    Args:
        settings: arms, salt, ramp and bandit.
    """

    def __init__(self, settings: Settings) -> None:
        stages = settings.stages
        self._salt, self._experiment, self._bandit = settings.salt, settings.experiment.name, settings.bandit
        self._explorers = Explorers(salt=settings.salt, share=self._bandit.explore)
        own = {name: share for name, share in stages[0].shares.items() if share > 0}
        self._own = {name: share / sum(own.values()) for name, share in own.items()}
        shares = self._own if self._bandit.on else _FROM_FILE
        self._begins = [stage.begin for stage in stages]
        """When shares begin (ms), ascending. Appended to last: who finds a time here finds its shares."""
        self._assignments = [Assignment(stage.shares, salt=settings.salt) for stage in stages]
        self._shares = [shares for _ in stages]

    @property
    def begun(self) -> float:
        """When the newest shares began or will begin, ms since the epoch; −∞ for those that always held."""
        return self._begins[-1]

    @property
    def newest(self) -> Mapping[str, float]:
        """The newest shares of a bandit, by arm."""
        return self._shares[-1]

    def add(self, step: SharesStep, written: int) -> bool:
        """Add a step of the bandit; returns whether it counts.

        Args:
            step: the shares.
            written: Kafka timestamp (ms) of its record.
        """
        bandit = self._bandit
        if not bandit.on or (step.experiment, step.salt) != (self._experiment, self._salt):
            return False
        if step.shares.keys() != self._own.keys() or not math.isclose(sum(step.shares.values()), 1, abs_tol=1e-6):
            return False
        if min(step.shares.values()) < bandit.floor - _ROUNDING:
            return False
        if written >= step.begin or step.begin < self.begun + 1000 * bandit.every_s:
            return False
        self._assignments.append(Assignment(step.shares, salt=self._salt))
        self._shares.append(step.shares)
        self._begins.append(step.begin)
        return True

    def assign(self, user: str, ts: int) -> Assigned:
        """Return the arm of a user at a time (ms)."""
        place = 0
        if len(self._begins) > 1 and (not self._bandit.on or user not in self._explorers):
            place = bisect_right(self._begins, ts) - 1
        return Assigned(self._assignments[place].arm(user), self._shares[place])
