"""What is asked of an experiment: the part of its file that a verdict and a report need."""

from typing import Self

from msgspec import Struct

from stream.experiment.plan import Experiment
from stream.experiment.sums import UserSums
from stream.experiment.verdict import MINIMUM_EFFECT, Verdict, judge
from stream.settings import ArmSettings, Settings


class Question(Struct, frozen=True, kw_only=True):
    """Which arms are compared under what name, and how sure the answer shall be (`verdict.judge`)."""

    name: str
    arms: tuple[ArmSettings, ...]
    alpha: float = 0.05
    minimum_effect: float = MINIMUM_EFFECT

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Return the question of an experiment."""
        arms = tuple(arm.settings() for arm in experiment.arms)
        return cls(name=experiment.name, arms=arms, alpha=experiment.alpha, minimum_effect=experiment.minimum_effect)

    @classmethod
    def of_settings(cls, settings: Settings) -> Self:
        """Return the question that arms in the settings pose where nobody has stated one."""
        return cls(name="arms of the settings", arms=settings.arms)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each arm, as a weight."""
        return {arm.name: arm.share for arm in self.arms}

    def verdict(self, sums: UserSums) -> Verdict:
        """Return the verdict; when users were seen in other arms than these, the shares are taken as unknown."""
        shares = self.shares if set(sums.arms) <= self.shares.keys() else None
        return judge(sums, shares, alpha=self.alpha, minimum_effect=self.minimum_effect)
