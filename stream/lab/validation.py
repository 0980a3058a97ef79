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
from model.spec import HALF_LIVES_S, preset
from stream.datasets.base import Dataset, Observation, Visit
from stream.datasets.histories import Histories
from stream.lab.engine import OnProgress

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
        run = _Pass(self)
        for step in self.dataset.steps():
            if isinstance(step, Visit):
                run.visit(step)
                on_progress(1)
            if run.visits == self.steps:
                break
            run.observe(step)
        return run.scores()


class _Pass:
    """A pass in progress: the learner, the scorers that follow it, and the users' sequences."""

    def __init__(self, validation: ProgressiveValidation) -> None:
        spec, seed = preset(validation.model), validation.seed
        self._learner = Learner(spec, seed=seed)
        self._servers = {
            name: _ServingScorer(Scorer(spec, seed=seed), None if every is None else round(1000 * every))
            for name, every in validation.intervals.items()
        }
        intervals = [each for each in self._servers.values() if each.interval]
        self._shortest = min(intervals, key=lambda each: each.interval or 0)
        self._warm_up_visits = round(WARM_UP * validation.steps)
        self._histories = Histories(spec.length, HALF_LIVES_S)
        self._examples: list[Example] = []
        self._users: list[str] = []
        self._labels: list[npt.NDArray[np.float32]] = []
        self._warm_up_end = self._updated_at = 0
        self.visits = 0
        """Visits so far."""

    def visit(self, visit: Visit) -> None:
        """Score a visit, after the updates that are due, and have the learner learn from it."""
        if self.visits == self._warm_up_visits:
            self._end_warm_up(visit.impression.ts)
        elif self.visits > self._warm_up_visits:
            self._update(visit.impression.ts - self._warm_up_end)
        example = self._histories.example(visit)
        if self.visits >= self._warm_up_visits:
            for server in self._servers.values():
                server.submit(example)
            assert example.labels is not None
            self._users += [visit.impression.user] * len(example.items)
            self._labels.append(example.labels)
        self._examples.append(example)
        if len(self._examples) == 2 * _BATCH:
            self._learn()
        self.visits += 1

    def observe(self, step: Visit | Observation) -> None:
        """Append the behaviours of a step to its user's sequence."""
        self._histories.observe(step)

    def scores(self) -> ValidationScores:
        """Return all scores after the warm-up."""
        for server in self._servers.values():
            server.flush()
        numbers: dict[str, int] = {}
        users = np.array([numbers.setdefault(user, len(numbers)) for user in self._users])
        scores = {name: np.concatenate(server.scores) for name, server in self._servers.items()}
        return ValidationScores(users, np.concatenate(self._labels), scores)

    def _learn(self) -> None:
        self._learner.learn(self._examples)
        self._examples.clear()

    def _end_warm_up(self, ts: int) -> None:
        """Give all scorers what was learned so far; intervals count from `ts` (ms)."""
        self._learn()
        self._warm_up_end, self._updated_at = ts, 0
        self._learner.delta("lab")
        for server in self._servers.values():
            server.scorer.apply(self._learner.base("lab"))

    def _update(self, now: int) -> None:
        """Update the scorers that are due at `now`, in ms since the warm-up: one by a delta, the others by a base."""
        if not self._shortest.is_due(self._updated_at, now):
            return
        self._learn()
        due = [server for server in self._servers.values() if server.is_due(self._updated_at, now)]
        self._updated_at = now
        if not self._learner.changed:
            return
        delta = self._learner.delta("lab")
        for server in due:
            server.flush()
            server.scorer.apply(delta if server is self._shortest else self._learner.base("lab"))
