"""Shares by schedule: which are in force at which time. The time is an event's, so everybody comes to the same arm."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from stream.errors import SettingsError


class RampStep(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shares that hold for impressions from a time on.

    Attributes:
        at: the time, with its time zone: `2026-03-01T00:00:00Z`.
        shares: arm → share, in place of the arm's own; arms that are not named keep the share that they had.
    """

    at: Annotated[datetime, Meta(tz=True)]
    shares: dict[str, Annotated[float, Meta(ge=0, le=1e9)]]

    @property
    def ms(self) -> int:
        """The time in ms since the epoch."""
        return round(1000 * self.at.timestamp())


class Stage(NamedTuple):
    """The time (ms since the epoch) between two steps, and the share of each arm in it; `end` does not belong to it."""

    begin: float
    end: float
    shares: Mapping[str, float]

    def holds(self, ts: float) -> bool:
        """Say whether a time is in it."""
        return self.begin <= ts < self.end


def stages(shares: Mapping[str, float], ramp: Sequence[RampStep]) -> list[Stage]:
    """Return the stages in order: before the first step the arms have their own shares.

    Raises:
        SettingsError: for steps that are not in the order of time, that name no arm, or that leave nobody a share.
    """
    found = [Stage(-math.inf, math.inf, dict(shares))]
    for step in ramp:
        last = found[-1]
        if step.ms <= last.begin:
            raise SettingsError(f"ramp: {step.at.isoformat()} does not come after the step before it")
        if unknown := step.shares.keys() - shares.keys():
            raise SettingsError(f"ramp: {step.at.isoformat()} names arm {min(unknown)!r}; there are {sorted(shares)}")
        after = {**last.shares, **step.shares}
        if sum(after.values()) <= 0:
            raise SettingsError(f"ramp: {step.at.isoformat()} leaves no arm a share: give at least one above 0")
        found[-1] = last._replace(end=step.ms)
        found.append(Stage(step.ms, math.inf, after))
    return found
