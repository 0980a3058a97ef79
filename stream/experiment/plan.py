"""An experiment: its file `experiment.toml`, and what verdict and report need of it."""

import tomllib
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta, Struct

from stream.errors import ExperimentError, SettingsError
from stream.experiment.assignment import Assignment
from stream.experiment.guardrails.counts import GuardrailCounts
from stream.experiment.guardrails.results import GuardrailResult, check_guardrails
from stream.experiment.interleaving import InterleavingVotes, Preference, agreement
from stream.experiment.ledger import Ledger
from stream.experiment.serving_cost import ServingCosts
from stream.experiment.shares_in_force import Explorers
from stream.experiment.user_sums import UserSums
from stream.experiment.verdict import Verdict, analyse
from stream.settings import (
    ArmSettings,
    BanditSettings,
    Count,
    ExperimentSettings,
    Name,
    Positive,
    RampStep,
    Settings,
    Stage,
    convert,
    stages,
)
from stream.settings.guardrail import Guardrail

Share = Annotated[float, Meta(gt=0, lt=1)]

_DEFAULT = ExperimentSettings()


class PlannedArm(ArmSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An arm as in the settings; `length` is how many behaviours its model reads, the preset's when left out."""

    length: Count | None = None

    def settings(self) -> ArmSettings:
        """Return the arm as worker and trainer know it."""
        fields = {name: getattr(self, name) for name in ArmSettings.__struct_fields__}
        if self.length is not None:
            fields["model"] = {**self.model, "length": self.length}
        return ArmSettings(**fields)


class UserAssumptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Assumptions about the users; only the numbers of users that are needed follow from it, never a verdict.

    Attributes:
        rate: click rate.
        slots: items that an impression shows.
        visits: impressions of a user while the experiment runs.
        icc: intraclass correlation: between two items of one user, 0 when users are all alike.
    """

    rate: Share = 0.1
    slots: Count = 10
    visits: Positive = 20.0
    icc: Annotated[float, Meta(ge=0, le=1)] = 0.02


class ExperimentPlan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One experiment.

    Attributes:
        name: for people.
        salt: with the user's id it decides the arm; another experiment needs another salt.
        metric: `ctr`, clicked items over shown items.
        minimum_effect: smallest lift that is worth finding; 0.05 is 5% more clicks.
        alpha: probability of naming a winner among arms that are alike, over all looks.
        power: probability with which an effect of the minimum size shall be found.
        arms: at least two.
        ramp: shares by schedule: steps in the order of time.
        bandit: shares that follow the clicks.
        guardrails: metrics that must not get worse.
        crowd: assumptions about the users.
    """

    name: Name
    salt: str
    arms: tuple[PlannedArm, ...]
    metric: Literal["ctr"] = "ctr"
    minimum_effect: Annotated[float, Meta(gt=0, le=10)] = _DEFAULT.minimum_effect
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = _DEFAULT.alpha
    power: Share = 0.8
    ramp: tuple[RampStep, ...] = ()
    bandit: BanditSettings = BanditSettings()
    guardrails: tuple[Guardrail, ...] = ()
    crowd: UserAssumptions = UserAssumptions()

    @property
    def compared(self) -> tuple[PlannedArm, ...]:
        """The arms that A/B compares: those with users and a model of their own."""
        return tuple(arm for arm in self.arms if arm.share > 0 and not arm.interleave)

    @property
    def longest(self) -> int:
        """The most behaviours that a model reads."""
        return max((arm.settings().spec().length for arm in self.arms if not arm.interleave), default=1)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each arm, as fractions of 1."""
        total = sum(arm.share for arm in self.arms)
        return {arm.name: arm.share / total for arm in self.arms}

    @property
    def explorers(self) -> Explorers:
        """The users whose clicks count: those who explore, or all without a bandit."""
        return Explorers(salt=self.salt, share=self.bandit.explore)

    @property
    def stages(self) -> list[Stage]:
        """The times between the ramp's steps, with the shares in force; one without a ramp."""
        return stages({arm.name: arm.share for arm in self.arms}, self.ramp)

    def at(self, ts: float) -> Self:
        """Return the experiment with the shares in force at a time (ms since the epoch), and no ramp."""
        stage = next(stage for stage in self.stages if stage.holds(ts))
        arms = tuple(msgspec.structs.replace(arm, share=stage.shares[arm.name]) for arm in self.arms)
        return msgspec.structs.replace(self, arms=arms, ramp=())

    @property
    def ramped(self) -> Self:
        """The experiment with the shares of its last stage, for which it is made."""
        return self.at(self.stages[-1].begin)

    def settings(self) -> dict[str, Any]:
        """Return the part of the settings that runs and judges the experiment, as plain values."""
        return {
            "experiment": {
                "name": self.name,
                "minimum_effect": self.minimum_effect,
                "alpha": self.alpha,
                **({"guardrails": msgspec.to_builtins(self.guardrails)} if self.guardrails else {}),
            },
            "salt": self.salt,
            "arms": [msgspec.to_builtins(arm.settings()) for arm in self.arms],
            **({"ramp": msgspec.to_builtins(self.ramp)} if self.ramp else {}),
            **({"bandit": msgspec.to_builtins(self.bandit)} if self.bandit.on else {}),
        }


def read(path: Path) -> ExperimentPlan:
    """Read an experiment.

    Raises:
        ExperimentError: for a file that cannot be read, an unknown key, a value that cannot be, or arms that cannot be
            run side by side; says where.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExperimentError(f"{path}: {error}") from None
    try:
        experiment = msgspec.convert(values, ExperimentPlan)
    except msgspec.ValidationError as error:
        raise ExperimentError(f"{path}: {error}") from None
    for arm in experiment.arms:
        if arm.length is not None and "length" in arm.model:
            raise ExperimentError(f"{path}: arm {arm.name!r} has its length twice: keep `length`, drop `model.length`")
    try:
        # What the workers' own settings allow is seen when these are read together.
        defaults = Settings()
        length = max(experiment.longest, defaults.state.length)
        ahead = min(defaults.worker.max_future_s, experiment.bandit.notice_s / 2)
        convert({**experiment.settings(), "state": {"length": length}, "worker": {"max_future_s": ahead}})
    except SettingsError as error:
        raise ExperimentError(f"{path}: {error}") from None
    last = experiment.ramped
    interleaves = any(arm.interleave and arm.share > 0 for arm in last.arms)
    if len(last.compared) < 2 and not interleaves:
        raise ExperimentError(f"{path}: fewer than two arms have a share above 0, so there is nothing to compare")
    for guardrail in experiment.guardrails:
        try:
            guardrail.check(tuple(arm.name for arm in last.compared))
        except ExperimentError as error:
            raise ExperimentError(f"{path}: {error}") from None
    return experiment


class Experiment(Struct, frozen=True, kw_only=True):
    """The arms that are compared, the name, the parameters of the verdict (`verdict.analyse`), and the guardrails."""

    name: str
    arms: tuple[ArmSettings, ...]
    alpha: float = _DEFAULT.alpha
    minimum_effect: float = _DEFAULT.minimum_effect
    guardrails: tuple[Guardrail, ...] = ()

    @classmethod
    def of(cls, experiment: ExperimentPlan) -> Self:
        """Return the experiment that a file plans."""
        arms = tuple(arm.settings() for arm in experiment.arms)
        return cls(
            name=experiment.name,
            arms=arms,
            alpha=experiment.alpha,
            minimum_effect=experiment.minimum_effect,
            guardrails=experiment.guardrails,
        )

    @classmethod
    def of_settings(cls, settings: Settings) -> Self:
        """Return the experiment that the settings describe."""
        asked = settings.experiment
        return cls(
            name=asked.name,
            arms=settings.arms,
            alpha=asked.alpha,
            minimum_effect=asked.minimum_effect,
            guardrails=asked.guardrails,
        )

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
        return self._analysed(sums, self.shares if set(sums.arms) <= self.shares.keys() else None)

    def verdict_on_own_arms(self, sums: UserSums) -> Verdict:
        """Return the verdict on the arms of this experiment, whatever other arms users were seen in."""
        return self._analysed(sums, self.shares)

    def preferences(self, votes: InterleavingVotes, verdict: Verdict) -> list[Preference]:
        """Return what each interleaved arm that has users says, held against the A/B verdict."""
        found = [
            votes.analyse(arm.name, (arm.interleave[0], arm.interleave[1]), alpha=self.alpha)
            for arm in self.arms
            if arm.interleave and arm.share > 0
        ]
        return [replace(each, agreement=agreement(each, verdict)) for each in found]

    def guardrail_counts(
        self, ledger: Ledger, answers: ServingCosts, *, salt: str, users: Container[str] | None, now: int
    ) -> GuardrailCounts | None:
        """Return what the guardrails are counted with, beside a ledger, which tells it what counts; None without any.

        Args:
            ledger: takes the outcomes.
            answers: take the scores.
            salt: of the experiment.
            users: who count; None for all.
            now: ms since the epoch, when reading begins.
        """
        if not self.guardrails:
            return None
        counts = GuardrailCounts(
            self.guardrails,
            answers,
            within=ledger.within,
            arm_of=Assignment(self.shares, salt=salt).arm,
            now=now,
            users=users,
        )
        ledger.on_counted = counts.add_counted
        return counts

    def guardrail_results(self, counts: GuardrailCounts, sums: UserSums) -> list[GuardrailResult]:
        """Return what each guardrail says of each arm that is compared, by the users who were in no other arm."""
        users = {arm.name: sums.users(arm.name) for arm in self.arms if arm.share > 0 and not arm.interleave}
        return check_guardrails(self.guardrails, counts, users, alpha=self.alpha, minimum_effect=self.minimum_effect)

    def _analysed(self, sums: UserSums, shares: Mapping[str, float] | None) -> Verdict:
        alpha, minimum = self.alpha, self.minimum_effect
        return analyse(sums, shares, alpha=alpha, minimum_effect=minimum, interleaved=self.interleaved)
