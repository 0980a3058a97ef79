"""Metrics of an arm over one or several worlds, with confidence intervals over users, and paired comparisons of arms.

Users of different worlds are different users. All arms of a world have the same users, visits and candidates, so arms
are compared in pairs over users, which removes from the variance what the two arms have in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.metrics import log_losses
from stream.experiment.statistics.auc import clustered_auc
from stream.experiment.statistics.intervals import Interval, clustered_rate, paired_lift
from stream.lab.engine import Rollout


@dataclass(frozen=True, slots=True)
class ArmResults:
    """All worlds of one arm, concatenated.

    Attributes:
        users: (V,) user indices, distinct between worlds.
        worlds: (V,) index of the world.
        rollout: the columns of all worlds.
    """

    users: npt.NDArray[np.int64]
    worlds: npt.NDArray[np.int64]
    rollout: Rollout

    @classmethod
    def of(cls, worlds: Sequence[Rollout]) -> "ArmResults":
        """Concatenate the worlds; all have the same numbers of slots and candidates."""
        first = np.cumsum([0, *(int(each.users.max(initial=-1)) + 1 for each in worlds)])
        users = np.concatenate([each.users + start for each, start in zip(worlds, first, strict=False)])
        names = ("users", "clicks", "expected", "best", "order", "scores", "would_click")
        columns: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in worlds]) for name in names}
        numbers = np.repeat(np.arange(len(worlds)), [len(each.users) for each in worlds])
        return cls(users, numbers, Rollout(**columns, slots=worlds[0].slots))

    @property
    def shown(self) -> npt.NDArray[np.int64]:
        """(V,) items shown."""
        return np.full(len(self.users), self.rollout.slots)

    def click_rate(self) -> Interval:
        """Return clicks over shown items."""
        return clustered_rate(self.users, self.shown, self.rollout.clicks)

    def regret(self) -> Interval:
        """Return the share of the best possible expected clicks that is missed: 0 for the oracle."""
        best = self.rollout.best
        return clustered_rate(
            self.users, best, np.round(best - self.rollout.expected, 9)
        )  # the sums differ in their order

    def loss_shown(self) -> Interval:
        """Return the log loss (nats an item) of the shown items, which differ between arms."""
        shown = self.rollout.order[:, : self.rollout.slots]
        losses = np.take_along_axis(self._losses(), shown, axis=1)
        return clustered_rate(self.users, self.shown, losses.sum(axis=1))

    def loss(self) -> Interval:
        """Return the log loss (nats an item) of all candidates, shown or not, which all arms share."""
        losses = self._losses()
        return clustered_rate(self.users, np.full(len(losses), losses.shape[1]), losses.sum(axis=1))

    def auc(self) -> Interval:
        """Return the AUC over all candidates, shown or not."""
        rollout = self.rollout
        users = np.repeat(self.users, rollout.scores.shape[1])
        return clustered_auc(rollout.would_click.ravel().astype(np.float64), rollout.scores.ravel(), users)

    def lift(self, other: "ArmResults", world: int | None = None) -> Interval:
        """Return the relative lift of the click rate over `other`, in all worlds or in one of them."""
        inside = slice(None) if world is None else self.worlds == world
        mine, theirs = (each.rollout.clicks[inside] for each in (self, other))
        return paired_lift(self.users[inside], (self.shown[inside], mine), (other.shown[inside], theirs))

    def _losses(self) -> npt.NDArray[np.float64]:
        return log_losses(self.rollout.would_click.astype(np.float64), self.rollout.scores)
