"""Click rates over all users of a bandit, each impression weighted by the probability that its user was in the arm.

Self-normalised inverse propensity scoring (Swaminathan and Joachims, NeurIPS 2015), with the variance over users. The
probabilities are exact, since no share depends on what those did whom it divides (`docs/experiments.md`): given the
shares, users are independent, and the mean of a user's weighted items and clicks is that of an arm which all are in.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from stream.experiment.statistics.effect import effective_users
from stream.experiment.statistics.intervals import Interval
from stream.experiment.statistics.moments import Floats, Moments
from stream.experiment.timeline import rate_so_far
from stream.experiment.verdict import MIN_CLICKS, MIN_USERS
from stream.schema.events import Outcome


class WeightedRates:
    """Sums over users, for each arm: weighted items, weighted clicks, and clicks. Outcomes may come in any order.

    Args:
        arms: those that serve.
    """

    def __init__(self, arms: Iterable[str]) -> None:
        self._arms = {arm: place for place, arm in enumerate(arms)}
        self._users: dict[str, Floats] = {}

    def add_counted(self, outcome: Outcome, indices: Sequence[int], _first: bool) -> None:
        """Add those items of an outcome that count (`Ledger.on_counted`); one without a probability does not."""
        place = self._arms.get(outcome.arm)
        if place is None or not outcome.propensity:
            return
        if (sums := self._users.get(outcome.user)) is None:
            sums = self._users[outcome.user] = np.zeros((len(self._arms), 3))
        clicks = sum(outcome.labels[index] for index in indices)
        sums[place] += len(indices) / outcome.propensity, clicks / outcome.propensity, clicks

    @property
    def users(self) -> int:
        """Users who were seen."""
        return len(self._users)

    def rates(self, *, alpha: float, minimum_effect: float) -> dict[str, Interval]:
        """Return arm → click rate with its any-time interval; without arms that have too few users or clicks.

        Args:
            alpha: 1 − confidence of each, over all looks.
            minimum_effect: relative effect for which the intervals are narrowest.
        """
        if not self._users:
            return {}
        table = np.stack(list(self._users.values()))
        found = {}
        for arm, place in self._arms.items():
            moments = Moments.of(table[:, place, :2])
            if float(effective_users(moments)) >= MIN_USERS and table[:, place, 2].sum() >= MIN_CLICKS:
                found[arm] = rate_so_far(moments, alpha=alpha, minimum_effect=minimum_effect)
        return found
