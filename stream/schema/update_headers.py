"""The headers of a `model-updates` record: readers that only count and time updates need not decode parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_CLICKS = 1000
"""Most click times in one update's headers; of more, an even sample."""
_MOST = 2**62
"""An update with a greater epoch or version could not be sent."""


@dataclass(frozen=True, slots=True)
class UpdateHeaders:
    """What the first part of an update announces.

    Attributes:
        arm: whose parameters.
        kind: "base" or "delta".
        epoch: raised at every restart of the trainer.
        version: number of the update in it.
        samples: distinct labelled items that the trainer has consumed in its lineage, whichever arms learned them.
        clicks: Kafka timestamps (ms) of clicks that this update is the first to have learned.
    """

    arm: str
    kind: str
    epoch: int
    version: int
    samples: int
    clicks: tuple[int, ...] = ()

    def headers(self) -> list[tuple[str, str | bytes | None]]:
        """Return the Kafka headers."""
        clicks = self.clicks[:: max(1, -(-len(self.clicks) // _CLICKS))]
        return [
            ("arm", self.arm),
            ("kind", self.kind),
            ("epoch", str(self.epoch)),
            ("version", str(self.version)),
            ("samples", str(self.samples)),
            ("clicks", np.array(clicks, dtype="<i8").tobytes()),
        ]


def read_update_headers(headers: Mapping[str, Any] | Sequence[tuple[str, Any]] | None) -> UpdateHeaders | None:
    """Return what a record's headers announce; None for later parts of an update and for other headers."""
    values: dict[str, Any] = dict(headers or ())
    try:
        announced = UpdateHeaders(
            arm=values["arm"].decode(),
            kind=values["kind"].decode(),
            epoch=int(values["epoch"]),
            version=int(values["version"]),
            samples=int(values["samples"]),
            clicks=tuple(np.frombuffer(values["clicks"], dtype="<i8").tolist()),
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    counted = all(0 <= number < _MOST for number in (announced.epoch, announced.version, announced.samples))
    return announced if counted and len(announced.clicks) <= _CLICKS else None
