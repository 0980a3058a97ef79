"""Simulated A/B tests, many at once, whose true lift is known: error rates and power are measured on them.

Users differ in their click rate (beta) and in their activity (lognormal), and return throughout the experiment, so the
impressions of one user are correlated.
"""

from dataclasses import dataclass

import numpy as np

from stream.experiment.statistics.moments import Floats, Moments

ALPHA = 0.05
MINIMUM_EFFECT = 0.1
"""What the benchmarks take as the smallest lift that is worth finding."""


@dataclass(frozen=True, slots=True)
class ABTests:
    """A/B tests of two arms, analysed at equally spaced looks.

    Attributes:
        worlds: how many experiments.
        users: users of each experiment; a random half of them is in each arm.
        looks: analyses of each experiment.
        every: impressions between two looks.
        slots: items shown in an impression.
        rate: mean click rate without lift.
        icc: intraclass correlation of the clicks of one user.
        activity_sd: standard deviation of the logarithm of the users' activity.
        lift: relative lift of the first arm over the second.
        staggered_entry: whether users enter one after another rather than all at the beginning.
        pre_impressions: impressions of all users together in the pre-experiment period; 0 for none.
    """

    worlds: int = 200
    users: int = 400
    looks: int = 100
    every: int = 100
    slots: int = 10
    rate: float = 0.1
    icc: float = 0.03
    activity_sd: float = 0.7
    lift: float = 0.0
    staggered_entry: bool = False
    pre_impressions: int = 0

    def draw(self, seed: int) -> tuple[Moments, Moments]:
        """Return both arms' cumulative moments at each look, (worlds, looks) of them."""
        drawn = [self._one(np.random.default_rng([seed, world])) for world in range(self.worlds)]
        return _stacked([first for first, _ in drawn]), _stacked([second for _, second in drawn])

    def _one(self, rng: np.random.Generator) -> tuple[Moments, Moments]:
        strength = (1 - self.icc) / self.icc if self.icc > 0 else np.inf
        own = np.full(self.users, self.rate)
        if np.isfinite(strength):
            own = rng.beta(self.rate * strength, (1 - self.rate) * strength, self.users)
        treated = rng.permutation(self.users) < self.users // 2
        activity = rng.lognormal(sigma=self.activity_sd, size=self.users)
        arrival = rng.uniform(0, self.looks, self.users) if self.staggered_entry else np.zeros(self.users)
        arrival[0] = 0
        chances = activity * (arrival <= np.arange(self.looks)[:, None])
        visits = rng.multinomial(self.every, chances / chances.sum(axis=1, keepdims=True))
        shown = self.slots * visits
        clicks = rng.binomial(shown, np.minimum(1.0, own * np.where(treated, 1 + self.lift, 1.0)))
        columns = [np.cumsum(shown, axis=0), np.cumsum(clicks, axis=0)]
        if self.pre_impressions:
            earlier = self.slots * rng.multinomial(self.pre_impressions, activity / activity.sum())
            columns += [np.broadcast_to(each, shown.shape) for each in (earlier, rng.binomial(earlier, own))]
        vectors = np.stack(columns, axis=-1).astype(np.float64)
        return self._seen(vectors[:, treated]), self._seen(vectors[:, ~treated])

    @staticmethod
    def _seen(vectors: Floats) -> Moments:
        """Return the moments over the users who were shown something up to each look."""
        seen = vectors[..., 0] > 0
        some = Moments.of(vectors * seen[..., None])
        return Moments(seen.sum(axis=-1).astype(np.float64), some.total, some.outer)


def _stacked(each: list[Moments]) -> Moments:
    return Moments(
        np.stack([moments.count for moments in each]),
        np.stack([moments.total for moments in each]),
        np.stack([moments.outer for moments in each]),
    )
