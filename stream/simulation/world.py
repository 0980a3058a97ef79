"""Users with long-standing interests that return, and the truth about what they click.

A user goes round through a few interests, one block of behaviours each. The newest fifty behaviours show the
current interest, a thousand show all of them; and a user clicks on items of any of them. So a long history is
worth something here exactly because dormant interests still count (`WorldConfig.dormant`), and learning while
serving is worth something because items die, fashions drift and, where it is asked for, jump. Models see nothing of
this but behaviours, candidates and clicks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream.schema.events import Behavior, Candidate
from stream.simulation.catalogue import TASTE_DIM, Catalogue
from stream.simulation.config import WorldConfig
from stream.simulation.hashing import Floats, Ints

ACTIONS = ("view", "cart", "buy")
_ACTION_SHARES = (0.8, 0.13, 0.07)


@dataclass(frozen=True, slots=True)
class BehaviorColumns:
    """Behaviours as arrays of one length: indices of user, item, category and action, and times in ms."""

    users: Ints
    items: Ints
    categories: Ints
    actions: Ints
    ts: Ints

    def __len__(self) -> int:
        return len(self.ts)

    def events(self) -> Iterator[Behavior]:
        """Yield them as events, in the order in which they stand."""
        columns = (self.users, self.items, self.categories, self.actions, self.ts)
        for user, item, category, action, ts in zip(*(column.tolist() for column in columns), strict=True):
            yield Behavior(user_name(user), item_name(item), ts, category_name(category), ACTIONS[action])


@dataclass(frozen=True, slots=True)
class Slate:
    """The candidates of one impression: (C,) indices of items and of their categories."""

    items: Ints
    categories: Ints

    def candidates(self) -> list[Candidate]:
        """Return them as an impression carries them."""
        pairs = zip(self.items.tolist(), self.categories.tolist(), strict=True)
        return [Candidate(item_name(item), category_name(category)) for item, category in pairs]


class World:
    """A world that begins at `start` (ms): the same seed and the same calls give the same world.

    What is true (`click_probability`, `catalogue`) is a pure function of the arguments and of each user's
    current interest. What happens (`history`, `browse`, `impression`, `clicks`, `visitors`) draws from the
    world's own random generator, and `history` and `browse` move users on through their interests.

    Attributes:
        interests: (users, interests) categories each user goes round through at the start.
        forerunners: (categories, 2) of each category, the first and the second.
    """

    def __init__(self, config: WorldConfig, *, seed: int = 0, start: int = 0) -> None:
        self.config, self.start = config, start
        self.catalogue = Catalogue(config, seed=seed, start=start)
        traits = np.random.default_rng([seed, 2])
        users, categories = config.users, config.categories
        self._order: Ints = traits.random((users, categories)).argsort(axis=1).astype(np.int64)
        self.interests: Ints = self._order[:, : config.interests]
        self._taste = traits.normal(size=(2, users, TASTE_DIM)) / np.sqrt(TASTE_DIM)
        self._user_effect = config.user_effect_sd * traits.normal(size=users)
        activity = traits.lognormal(sigma=0.5, size=users)
        self._activity = activity / activity.sum()
        self._uniforms = traits.random(users)
        strangeness = np.random.default_rng([seed, 4]).random((categories, categories)) + np.eye(categories)
        self.forerunners: Ints = strangeness.argsort(axis=1)[:, :2]
        self._rng = np.random.default_rng([seed, 3])
        self._turn = self._rng.integers(config.interests, size=users)
        self._left = self._blocks(users)
        self._log_popularity = np.log(self.catalogue.popularity)
        self._popularity_up_to = np.cumsum(self.catalogue.popularity)
        self._popularity_up_to[-1] = 1.0

    def interests_at(self, users: Ints, ts: int) -> Ints:
        """Return the (n, interests) categories that the users go round through at `ts` (ms).

        A shift that moves a user replaces the next interest in turn by a category that is not among theirs.
        """
        places, changes = (
            np.arange(self.config.interests),
            self.catalogue.shifts.change_points_passed(ts, self._uniforms[users])[:, None],
        )
        newest = changes + (places - changes) % self.config.interests
        interests: Ints = self._order[users[:, None], newest % self.config.categories]
        return interests

    def current_interest(self, users: Ints, ts: int | None = None) -> Ints:
        """Return the category that each of the users follows now, `ts` (ms) being now; the start when left out."""
        now = self.start if ts is None else ts
        current: Ints = self.interests_at(users, now)[np.arange(len(users)), self._turn[users]]
        return current

    def sequels(self, users: Ints, ts: int) -> npt.NDArray[np.bool_]:
        """Return (n, categories) whether a user came to the second forerunner of a category after the first."""
        interests = self.interests_at(users, ts)
        rows = np.arange(len(users))[:, None]
        since = (self._turn[users][:, None] - np.arange(self.config.interests)) % self.config.interests
        age = np.full((len(users), self.config.categories), -1)
        age[rows, interests] = since
        first, second = (age[:, of] for of in self.forerunners.T)
        came: npt.NDArray[np.bool_] = (second >= 0) & (first > second)
        return came

    def click_probability(self, user: int | Ints, items: Ints, ts: int) -> Floats:
        """Return the true probabilities that users click items at `ts` (ms) when they look at them.

        `user` is one, or many, and is broadcast against `items`: one user and (C,) items give (C,), (n, 1) users and
        (C,) items give (n, C).
        """
        config = self.config
        everyone, everything = np.broadcast_arrays(np.asarray(user), items)
        users, rows = np.unique(everyone.ravel(), return_inverse=True)
        flat = everything.ravel()
        categories = self.catalogue.category(flat)
        current = categories == self.current_interest(users, ts)[rows]
        member = np.zeros((len(users), config.categories), dtype=bool)
        np.put_along_axis(member, self.interests_at(users, ts), True, axis=1)
        cares = np.where(current, 1.0, config.dormant * member[rows, categories])
        suits = np.einsum("ij,ij->i", self.catalogue.vectors(flat), self._taste_at(users, ts)[rows])
        odds = config.base + self._user_effect[users][rows] + config.interest * cares + config.taste * suits
        odds += self.catalogue.appeal(flat, ts)
        odds += config.sequel * self.sequels(users, ts)[rows, categories]
        probability: Floats = 1 / (1 + np.exp(-odds))
        return probability.reshape(everything.shape)

    def shown_probability(self, user: int, items: Ints, ts: int) -> Floats:
        """Return the (C,) true probabilities that `user` clicks items shown in this order, best place first."""
        return examination(self.config, len(items)) * self.click_probability(user, items, ts)

    def clicks(self, user: int, items: Ints, ts: int) -> npt.NDArray[np.bool_]:
        """Draw whether `user` clicks each of the `items`, shown in this order."""
        return self._rng.random(len(items)) < self.shown_probability(user, items, ts)

    def best_and_random(self, user: int, slate: Slate, ts: int, slots: int) -> tuple[float, float]:
        """Return the expected clicks on `slots` shown items: the truly best in order, and a random choice."""
        truth = np.sort(self.click_probability(user, slate.items, ts))[::-1]
        looked = examination(self.config, min(slots, len(truth)))
        return float(truth[: len(looked)] @ looked), float(truth.mean() * looked.sum())

    def visitors(self, count: int) -> Ints:
        """Draw the users of the next `count` impressions; some come far more often than others."""
        return self._rng.choice(self.config.users, size=count, p=self._activity)

    def impression(self, user: int, ts: int) -> Slate:
        """Draw distinct living items for `user` at `ts` (ms): of interests, popular ones, any; shuffled."""
        config = self.config
        interests = self.interests_at(np.array([user]), ts)[0]
        mine = np.repeat(np.isin(np.arange(config.categories), interests), config.items_per_category)
        free = np.ones(self.catalogue.places, dtype=bool)
        from_interests = min(round(config.from_interests * config.candidates), int(mine.sum()))
        from_popular = round(config.from_popular * config.candidates)
        quotas = (
            (from_interests, np.where(mine, 0.0, -np.inf)),
            (from_popular, self._log_popularity),
            (config.candidates - from_interests - from_popular, np.zeros(self.catalogue.places)),
        )
        chosen = []
        for count, weights in quotas:
            # Gumbel top-k: draws `count` places without replacement, in proportion to exp(weights).
            keys = np.where(free, weights + self._rng.gumbel(size=len(free)), -np.inf)
            places = np.argsort(keys)[len(keys) - count :]
            free[places] = False
            chosen.append(places)
        places = self._rng.permutation(np.concatenate(chosen))
        items = self.catalogue.alive(ts)[places]
        return Slate(items, self.catalogue.category(items))

    def history(self) -> BehaviorColumns:
        """Draw `config.history` behaviours of each user, all before the start and in the order of time."""
        config = self.config
        everyone = np.arange(config.users)
        gaps = 1 + self._rng.exponential(1000 * config.gap_s, size=(config.history, config.users)).astype(np.int64)
        ts = self.start - np.cumsum(gaps[::-1], axis=0)[::-1]
        items = self._walk(everyone, self.start, config.history)
        order = np.argsort(ts, axis=None, kind="stable")
        users = np.broadcast_to(everyone, ts.shape).ravel()[order]
        return self._behaviors(users, items.ravel()[order], ts.ravel()[order])

    def browse(self, user: int, ts: int) -> BehaviorColumns:
        """Draw what `user` does on their own at `ts` (ms): a Poisson number (`organic`) of behaviours."""
        count = int(self._rng.poisson(self.config.organic))
        items = self._walk(np.array([user]), ts, count)[:, 0]
        return self._behaviors(np.full(count, user), items, ts + np.arange(count))

    def _walk(self, users: Ints, ts: int, steps: int) -> Ints:
        """(steps, n) items of the next behaviours of n distinct users, whom it moves on."""
        config, catalogue = self.config, self.catalogue
        alive = catalogue.alive(ts)
        liking = self._log_popularity + self._taste_at(users, ts) @ catalogue.vectors(alive).T
        interests = self.interests_at(users, ts)
        rows = np.arange(len(users))[:, None]
        within = np.arange(config.items_per_category)
        places = np.empty((steps, len(users)), dtype=np.int64)
        for step in range(steps):
            followed_now = interests[rows[:, 0], self._turn[users]]
            offered = followed_now[:, None] * config.items_per_category + within
            keys = liking[rows, offered] + self._rng.gumbel(size=offered.shape)
            followed = offered[rows[:, 0], keys.argmax(axis=1)]
            stray = np.searchsorted(self._popularity_up_to, self._rng.random(len(users)), side="right")
            places[step] = np.where(self._rng.random(len(users)) < config.noise, stray, followed)
            self._move_on(users)
        moved: Ints = alive[places]
        return moved

    def _move_on(self, users: Ints) -> None:
        """One behaviour nearer to the end of the block; then the next interest's turn."""
        self._left[users] -= 1
        done = users[self._left[users] <= 0]
        self._turn[done] = (self._turn[done] + 1) % self.config.interests
        self._left[done] = self._blocks(len(done))

    def _blocks(self, count: int) -> Ints:
        """Lengths of blocks: uniform, from half of the mean to one and a half."""
        mean = self.config.block
        return self._rng.integers(mean - mean // 2, mean + mean // 2 + 1, size=count)

    def _behaviors(self, users: Ints, items: Ints, ts: Ints) -> BehaviorColumns:
        actions = self._rng.choice(len(ACTIONS), size=len(items), p=_ACTION_SHARES)
        return BehaviorColumns(users, items, self.catalogue.category(items), actions, ts)

    def _taste_at(self, users: Ints, ts: int) -> Floats:
        angle = 2 * np.pi * max(ts - self.start, 0) / (1000 * self.config.taste_s)
        now: Floats = np.cos(angle) * self._taste[0, users] + np.sin(angle) * self._taste[1, users]
        return now


def examination(config: WorldConfig, slots: int) -> Floats:
    """Return the (slots,) probabilities that a shown item is looked at, by its place, best first.

    A click needs a look and an item that is liked when looked at, independently: the position-based model
    (Craswell, Zoeter, Taylor and Ramsey, WSDM 2008).
    """
    looked: Floats = np.arange(1, slots + 1, dtype=np.float64) ** -config.position_bias
    return looked


def draw_click_delays(rng: np.random.Generator, shape: tuple[int, ...] | None = None) -> Floats:
    """Draw seconds from an answer to the click on it: 0.1 at least, and exponential with mean 0.3 after that."""
    return np.asarray(0.1 + rng.exponential(0.3, shape))


def user_name(user: int) -> str:
    """Return the id by which the outside knows a user."""
    return f"user-{user:04d}"


def item_name(item: int) -> str:
    """Return the id by which the outside knows an item."""
    return f"item-{item:06d}"


def category_name(category: int) -> str:
    """Return the name of a category."""
    return f"category-{category:02d}"
