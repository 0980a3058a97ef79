"""What an arm reached in one or several worlds, with intervals over users; arms of the same worlds compared in pairs.

Users of different worlds are different users. Arms of one world have the same users, visits and candidates, so a
comparison is over users and takes what the two arms have in common out of the variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.metrics import log_losses
from stream.experiment.statistics.auc import clustered_auc
from stream.experiment.statistics.intervals import Interval, clustered_rate, paired_lift
from stream.lab.engine import Played


@dataclass(frozen=True, slots=True)
class Judged:
    """All worlds of one arm, one after the other.

    Attributes:
        users: (V,) who came, numbered through all worlds.
        worlds: (V,) in which world.
        played: the columns of all worlds.
    """

    users: npt.NDArray[np.int64]
    worlds: npt.NDArray[np.int64]
    played: Played

    @classmethod
    def of(cls, worlds: Sequence[Played]) -> "Judged":
        """Put the worlds together; all have the same slots and candidates."""
        first = np.cumsum([0, *(int(each.users.max(initial=-1)) + 1 for each in worlds)])
        users = np.concatenate([each.users + start for each, start in zip(worlds, first, strict=False)])
        names = ("users", "clicks", "expected", "best", "order", "scores", "would_click")
        columns: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in worlds]) for name in names}
        numbers = np.repeat(np.arange(len(worlds)), [len(each.users) for each in worlds])
        return cls(users, numbers, Played(**columns, slots=worlds[0].slots))

    @property
    def shown(self) -> npt.NDArray[np.int64]:
        """(V,) items shown."""
        return np.full(len(self.users), self.played.slots)

    def click_rate(self) -> Interval:
        """Return clicked over shown items."""
        return clustered_rate(self.users, self.shown, self.played.clicks)

    def regret(self) -> Interval:
        """Return the share of the best possible expected clicks that is missed: 0 is the oracle's."""
        best = self.played.best
        return clustered_rate(self.users, best, np.round(best - self.played.expected, 9))  # sums in another order

    def loss_shown(self) -> Interval:
        """Return the log loss (nats an item) of what was shown, which is not the same in other arms."""
        shown = self.played.order[:, : self.played.slots]
        losses = np.take_along_axis(self._losses(), shown, axis=1)
        return clustered_rate(self.users, self.shown, losses.sum(axis=1))

    def loss(self) -> Interval:
        """Return the log loss (nats an item) of all candidates, shown or not; the same ones in every arm."""
        losses = self._losses()
        return clustered_rate(self.users, np.full(len(losses), losses.shape[1]), losses.sum(axis=1))

    def auc(self) -> Interval:
        """Return the AUC over all candidates, shown or not."""
        played = self.played
        users = np.repeat(self.users, played.scores.shape[1])
        return clustered_auc(played.would_click.ravel().astype(np.float64), played.scores.ravel(), users)

    def lift(self, other: "Judged", world: int | None = None) -> Interval:
        """Return by how much, relatively, more is clicked than in `other`; in all worlds, or in one of them."""
        inside = slice(None) if world is None else self.worlds == world
        mine, theirs = (each.played.clicks[inside] for each in (self, other))
        return paired_lift(self.users[inside], (self.shown[inside], mine), (other.shown[inside], theirs))

    def _losses(self) -> npt.NDArray[np.float64]:
        return log_losses(self.played.would_click.astype(np.float64), self.played.scores)
