"""Freshness on real baskets: one learner goes through The Complete Journey, and scorers follow it now and then.

What is asked does not depend on what is answered, so all scorers can follow one learner. A basket is scored with the
user's behaviours before it, learned only afterwards, and its items become behaviours last: nothing of it leaks into its
own scores (progressive validation).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from model.example import Example
from model.learner import Learner
from model.scorer import Scorer
from model.spec import preset
from state.behavior import BehaviorArray, action_key, behaviors, category_key, item_key
from state.layout import Ring, user_prefix
from state.window import Window
from stream.datasets.base import Dataset, Observed, Visit
from stream.lab.engine import LENGTH, Watch

WARM_UP = 0.25
"""Share of the visits that is only learned from."""
_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class Journeyed:
    """What each scorer said of the n candidates that were asked about after the warm-up.

    Attributes:
        users: (n,) numbers from 0, of whose basket each candidate was asked.
        labels: (n,) 1 bought, 0 not.
        scores: interval's name → (n,) probabilities.
    """

    users: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32]
    scores: Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Journey:
    """A pass over the data; a job as `stream.lab.runs.run_all` takes it.

    Attributes:
        model: preset of `model.spec`.
        intervals: name → seconds of the data's time between updates, or None for never after the warm-up. The
            learner steps at each end of the shortest interval, and within it whenever it has enough.
        dataset: what to go through.
        seed: of the parameters.
        visits: stop after so many; None for all.
    """

    model: str
    intervals: Mapping[str, float | None]
    dataset: Dataset
    seed: int = 0
    visits: int | None = None

    @property
    def steps(self) -> int:
        """How many visits there are to go through."""
        return min(self.visits or self.dataset.totals.visits, self.dataset.totals.visits)

    def __call__(self, watch: Watch) -> Journeyed:
        """Go through the data."""
        return go_through(self, watch)


@dataclass(slots=True)
class _Follower:
    """A scorer that is updated when a multiple of its interval (ms; None for never) is passed."""

    scorer: Scorer
    every: int | None
    waiting: list[Example] = field(default_factory=list)
    said: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def ask(self, example: Example) -> None:
        """Score it, at the latest before the next update."""
        self.waiting.append(example)
        if len(self.waiting) == _TOGETHER:
            self.answer()

    def answer(self) -> None:
        """Score what waits."""
        self.said += self.scorer.score(self.waiting)
        self.waiting.clear()

    def is_due(self, before: int, now: int) -> bool:
        """Whether an update falls between two moments (ms since the end of the warm-up)."""
        return self.every is not None and before // self.every < now // self.every


def go_through(journey: Journey, watch: Watch) -> Journeyed:
    """Ask, learn and update in the order of the data's time."""
    spec, dataset = preset(journey.model), journey.dataset
    learner = Learner(spec, seed=journey.seed)
    followers = {
        name: _Follower(Scorer(spec, seed=journey.seed), None if every is None else round(1000 * every))
        for name, every in journey.intervals.items()
    }
    shortest = min((each for each in followers.values() if each.every), key=lambda each: each.every or 0)
    ring, windows, numbers = Ring.holding(LENGTH), dict[str, Window](), dict[str, int]()
    lessons: list[Example] = []
    users, labels = list[int](), list[npt.NDArray[np.float32]]()
    warm = round(WARM_UP * journey.steps)
    visits, began, last = 0, 0, 0

    def learn() -> None:
        learner.learn(lessons)
        lessons.clear()

    for step in dataset.steps():
        user = step.behaviors[0].user
        window = windows.setdefault(user, Window(ring, user_prefix(user), 0, 0, b""))
        if isinstance(step, Visit):
            now = step.impression.ts - began
            if visits == warm:
                learn()
                began, last, now = step.impression.ts, 0, 0
                learner.delta("lab")
                for follower in followers.values():
                    follower.scorer.apply(learner.base("lab"))
            elif visits > warm and shortest.is_due(last, now):
                learn()
                _update(learner, shortest, [each for each in followers.values() if each.is_due(last, now)])
                last = now
            example = _example(step, window.records(window.count - LENGTH, window.count))
            if visits >= warm:
                for follower in followers.values():
                    follower.ask(example)
                assert example.labels is not None
                users += [numbers.setdefault(user, len(numbers))] * len(example.items)
                labels.append(example.labels)
            lessons.append(example)
            if len(lessons) == 2 * _TOGETHER:
                learn()
            visits += 1
            watch(1)
        if visits == journey.steps:
            break
        window.append(_packed(step).tobytes())
    for follower in followers.values():
        follower.answer()
    scores = {name: np.concatenate(follower.said) for name, follower in followers.items()}
    return Journeyed(np.array(users), np.concatenate(labels), scores)


def _update(learner: Learner, shortest: _Follower, due: list[_Follower]) -> None:
    """Bring those that are due up to date: the one that misses none by a delta, the others by a base."""
    if not learner.changed:
        return
    delta = learner.delta("lab")
    for follower in due:
        follower.answer()
        follower.scorer.apply(delta if follower is shortest else learner.base("lab"))


def _example(visit: Visit, sequence: BehaviorArray) -> Example:
    bought = {click.item for click in visit.clicks}
    candidates = visit.impression.candidates
    return Example(
        sequence=sequence,
        ts=visit.impression.ts,
        items=np.array([item_key(each.item) for each in candidates], dtype=np.uint64),
        categories=np.array([category_key(each.category) for each in candidates], dtype=np.uint32),
        labels=np.array([each.item in bought for each in candidates], dtype=np.float32),
    )


def _packed(step: Visit | Observed) -> BehaviorArray:
    return behaviors(
        [
            (item_key(each.item), category_key(each.category), action_key(each.action), each.ts)
            for each in step.behaviors
        ]
    )
