"""Bandit shares: how they are chosen, and what cannot go together with them."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from stream.errors import SettingsError


class BanditSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shares that follow the clicks (Thompson sampling); `samstream bandit` computes them. Off unless `explore` is set.

    Attributes:
        explore: share of the users, by hash, who are divided as `arms` says for good, and from whose clicks alone the
            shares of all others are computed. 1 is no bandit. All workers, the bandit and the monitor need the same.
        floor: least share of each arm among the others.
        every_s: how long shares hold at least.
        notice_s: how long before they begin new shares are written, so that every worker has them in time.
        metrics: HOST:PORT of Prometheus metrics and the health check; empty for none.
    """

    explore: Annotated[float, Meta(gt=0, le=1)] = 1.0
    floor: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    every_s: Annotated[float, Meta(gt=0, le=1e9)] = 600.0
    notice_s: Annotated[float, Meta(gt=0, le=1e9)] = 15.0
    metrics: str = ""

    @property
    def on(self) -> bool:
        """Whether there is a bandit."""
        return self.explore < 1


class _Arm(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def share(self) -> float: ...
    @property
    def interleave(self) -> tuple[str, ...]: ...


def check_bandit(bandit: BanditSettings, arms: Sequence[_Arm], *, ramp: bool, max_future_s: float) -> None:
    """Refuse a bandit that cannot be.

    Args:
        bandit: the settings.
        arms: of the experiment.
        ramp: whether shares go by schedule, too.
        max_future_s: how far an impression's time may be ahead of the clock.

    Raises:
        SettingsError: says what is wrong.
    """
    if not bandit.on:
        return
    serving = [arm for arm in arms if arm.share > 0]
    if mixed := [arm.name for arm in serving if arm.interleave]:
        raise SettingsError(f"bandit.explore: arm {mixed[0]!r} interleaves others, which no bandit can judge: share 0")
    if len(serving) < 2:
        raise SettingsError("bandit.explore: a bandit needs two arms with a share")
    if bandit.floor * len(serving) >= 1:
        raise SettingsError(
            f"bandit.floor={bandit.floor:g} for each of {len(serving)} arms leaves nothing to choose: lower it below"
            f" {1 / len(serving):.3g}"
        )
    if ramp:
        raise SettingsError("bandit.explore and a ramp: shares follow the clicks or a schedule, drop one of them")
    if bandit.notice_s <= max_future_s:
        raise SettingsError(
            f"bandit.notice_s={bandit.notice_s:g} must be longer than worker.max_future_s={max_future_s:g}: an"
            " impression's time may be that far ahead"
        )
