"""Made-up experiments, many at once, in which the truth is known: what the promises of this package are checked on.

Users differ in how much they click (beta), and in how often they come (lognormal), and they return throughout, so the
impressions of one user are alike and those of the whole are not independent.
"""

from dataclasses import dataclass

import numpy as np

from stream.experiment.statistics.moments import Floats, Moments


@dataclass(frozen=True, slots=True)
class Worlds:
    """Experiments of two arms, seen at equally spaced looks.

    Attributes:
        worlds: how many.
        users: of each; halves of them, by lot, are in the two arms.
        looks: how often each experiment is looked at.
        every: impressions between two looks.
        slots: items an impression shows.
        rate: mean click rate without any lift.
        likeness: correlation between two items of one user (intraclass).
        activity: standard deviation of the logarithm of how often users come.
        lift: of the first arm over the second.
        growing: whether users turn up one after the other, rather than all from the beginning.
        before: impressions of all users together before the experiment.
    """

    worlds: int = 200
    users: int = 400
    looks: int = 100
    every: int = 100
    slots: int = 10
    rate: float = 0.1
    likeness: float = 0.03
    activity: float = 0.7
    lift: float = 0.0
    growing: bool = False
    before: int = 0

    def draw(self, seed: int) -> tuple[Moments, Moments]:
        """Return both arms' moments, (worlds, looks) of them, as everything up to each look adds up to."""
        drawn = [self._one(np.random.default_rng([seed, world])) for world in range(self.worlds)]
        return _stacked([first for first, _ in drawn]), _stacked([second for _, second in drawn])

    def _one(self, rng: np.random.Generator) -> tuple[Moments, Moments]:
        strength = (1 - self.likeness) / self.likeness if self.likeness > 0 else np.inf
        own = np.full(self.users, self.rate)
        if np.isfinite(strength):
            own = rng.beta(self.rate * strength, (1 - self.rate) * strength, self.users)
        treated = rng.permutation(self.users) < self.users // 2
        activity = rng.lognormal(sigma=self.activity, size=self.users)
        arrival = rng.uniform(0, self.looks, self.users) if self.growing else np.zeros(self.users)
        arrival[0] = 0
        chances = activity * (arrival <= np.arange(self.looks)[:, None])
        visits = rng.multinomial(self.every, chances / chances.sum(axis=1, keepdims=True))
        shown = self.slots * visits
        clicks = rng.binomial(shown, np.minimum(1.0, own * np.where(treated, 1 + self.lift, 1.0)))
        columns = [np.cumsum(shown, axis=0), np.cumsum(clicks, axis=0)]
        if self.before:
            earlier = self.slots * rng.multinomial(self.before, activity / activity.sum())
            columns += [np.broadcast_to(each, shown.shape) for each in (earlier, rng.binomial(earlier, own))]
        vectors = np.stack(columns, axis=-1).astype(np.float64)
        return self._seen(vectors[:, treated]), self._seen(vectors[:, ~treated])

    @staticmethod
    def _seen(vectors: Floats) -> Moments:
        """Moments over the users that were shown something by each look."""
        seen = vectors[..., 0] > 0
        some = Moments.of(vectors * seen[..., None])
        return Moments(seen.sum(axis=-1).astype(np.float64), some.total, some.outer)


def _stacked(each: list[Moments]) -> Moments:
    return Moments(
        np.stack([moments.count for moments in each]),
        np.stack([moments.total for moments in each]),
        np.stack([moments.outer for moments in each]),
    )
