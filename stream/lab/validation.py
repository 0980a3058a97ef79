"""Progressive validation on real baskets: one learner goes through the data, and scorers follow it at intervals.

Which baskets are asked about does not depend on the answers, so all scorers can follow one learner. A basket is scored
with the user's behaviours before it; only then does the learner see it, and last its items become behaviours. So
nothing of a basket leaks into its own scores.
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
from stream.datasets.base import Dataset, Observation, Visit
from stream.lab.engine import SEQUENCE_LENGTH, OnProgress

WARM_UP = 0.25
"""Share of the visits, at the beginning, that are for learning only."""
_BATCH = 16


@dataclass(frozen=True, slots=True)
class ValidationScores:
    """The scores of all n candidates after the warm-up.

    Attributes:
        users: (n,) user indices.
        labels: (n,) 1 for bought, 0 for not.
        scores: interval's name → (n,) probabilities.
    """

    users: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32]
    scores: Mapping[str, npt.NDArray[np.float32]]


@dataclass(slots=True)
class _ServingScorer:
    """A scorer that is updated at each multiple of its interval (ms; None for never)."""

    scorer: Scorer
    interval: int | None
    waiting: list[Example] = field(default_factory=list)
    scores: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def submit(self, example: Example) -> None:
        """Score an example, at the latest before the next update."""
        self.waiting.append(example)
        if len(self.waiting) == _BATCH:
            self.flush()

    def flush(self) -> None:
        """Score the examples that wait."""
        self.scores += self.scorer.score(self.waiting)
        self.waiting.clear()

    def is_due(self, before: int, now: int) -> bool:
        """Return whether an update is due between two times (ms since the end of the warm-up)."""
        return self.interval is not None and before // self.interval < now // self.interval


@dataclass(frozen=True, slots=True)
class ProgressiveValidation:
    """One pass over the data; a job for `stream.lab.runs.run_all`.

    Attributes:
        model: preset of `model.spec`.
        intervals: name → seconds of event time between updates; None: no update after the warm-up. The learner
            takes a step at the end of each shortest interval, and within it whenever a batch is full.
        dataset: the data.
        seed: of the initial parameters.
        visits: stop after this many; None for all.
    """

    model: str
    intervals: Mapping[str, float | None]
    dataset: Dataset
    seed: int = 0
    visits: int | None = None

    @property
    def steps(self) -> int:
        """How many visits there are."""
        return min(self.visits or self.dataset.totals.visits, self.dataset.totals.visits)

    def __call__(self, on_progress: OnProgress) -> ValidationScores:
        """Return the scores of a pass over the data, in order of event time."""
        spec, dataset = preset(self.model), self.dataset
        learner = Learner(spec, seed=self.seed)
        servers = {
            name: _ServingScorer(Scorer(spec, seed=self.seed), None if every is None else round(1000 * every))
            for name, every in self.intervals.items()
        }
        shortest = min((each for each in servers.values() if each.interval), key=lambda each: each.interval or 0)
        ring, windows, numbers = Ring.holding(SEQUENCE_LENGTH), dict[str, Window](), dict[str, int]()
        examples: list[Example] = []
        users, labels = list[int](), list[npt.NDArray[np.float32]]()
        warm_up_visits = round(WARM_UP * self.steps)
        visits, began, last = 0, 0, 0

        def learn() -> None:
            learner.learn(examples)
            examples.clear()

        for step in dataset.steps():
            user = step.behaviors[0].user
            window = windows.setdefault(user, Window(ring, user_prefix(user), 0, 0, b""))
            if isinstance(step, Visit):
                now = step.impression.ts - began
                if visits == warm_up_visits:
                    learn()
                    began, last, now = step.impression.ts, 0, 0
                    learner.delta("lab")
                    for server in servers.values():
                        server.scorer.apply(learner.base("lab"))
                elif visits > warm_up_visits and shortest.is_due(last, now):
                    learn()
                    _update(learner, shortest, [each for each in servers.values() if each.is_due(last, now)])
                    last = now
                example = _example(step, window.records(window.count - SEQUENCE_LENGTH, window.count))
                if visits >= warm_up_visits:
                    for server in servers.values():
                        server.submit(example)
                    assert example.labels is not None
                    users += [numbers.setdefault(user, len(numbers))] * len(example.items)
                    labels.append(example.labels)
                examples.append(example)
                if len(examples) == 2 * _BATCH:
                    learn()
                visits += 1
                on_progress(1)
            if visits == self.steps:
                break
            window.append(_packed(step).tobytes())
        for server in servers.values():
            server.flush()
        scores = {name: np.concatenate(server.scores) for name, server in servers.items()}
        return ValidationScores(np.array(users), np.concatenate(labels), scores)


def _update(learner: Learner, shortest: _ServingScorer, due: list[_ServingScorer]) -> None:
    """Update the scorers that are due: the one that gets every update by a delta, the others by a base."""
    if not learner.changed:
        return
    delta = learner.delta("lab")
    for server in due:
        server.flush()
        server.scorer.apply(delta if server is shortest else learner.base("lab"))


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


def _packed(step: Visit | Observation) -> BehaviorArray:
    return behaviors(
        [
            (item_key(each.item), category_key(each.category), action_key(each.action), each.ts)
            for each in step.behaviors
        ]
    )
