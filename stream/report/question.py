"""What is asked of an experiment: the part of its file that a verdict and a report need."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

from msgspec import Struct

from stream.experiment.plan import Experiment
from stream.experiment.preference import Ballots, Preferred, agreement
from stream.experiment.user_sums import UserSums
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
        """Return the question that the settings pose."""
        asked = settings.experiment
        return cls(name=asked.name, arms=settings.arms, alpha=asked.alpha, minimum_effect=asked.minimum_effect)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each arm, as a weight."""
        return {arm.name: arm.share for arm in self.arms}

    @property
    def interleaved(self) -> dict[str, tuple[str, ...]]:
        """The arms that interleave two others, which these are."""
        return {arm.name: arm.interleave for arm in self.arms if arm.interleave}

    def verdict(self, sums: UserSums) -> Verdict:
        """Return the verdict; when users were seen in other arms than these, the shares are taken as unknown."""
        return self._judged(sums, self.shares if set(sums.arms) <= self.shares.keys() else None)

    def verdict_on_its_arms(self, sums: UserSums) -> Verdict:
        """Return the verdict on the arms that the question names, whatever other arms users were seen in."""
        return self._judged(sums, self.shares)

    def preferences(self, ballots: Ballots, verdict: Verdict) -> list[Preferred]:
        """Return what each interleaved arm that has users says, held against the A/B verdict."""
        found = [
            ballots.judge(arm.name, (arm.interleave[0], arm.interleave[1]), alpha=self.alpha)
            for arm in self.arms
            if arm.interleave and arm.share > 0
        ]
        return [replace(each, agreement=agreement(each, verdict)) for each in found]

    def _judged(self, sums: UserSums, shares: Mapping[str, float] | None) -> Verdict:
        alpha, minimum = self.alpha, self.minimum_effect
        return judge(sums, shares, alpha=alpha, minimum_effect=minimum, interleaved=self.interleaved)
