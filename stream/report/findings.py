"""What a benchmark found: rows for people, the same rows and the targets for machines, a picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from stream.report.schema import Machine


@dataclass(frozen=True, slots=True)
class Target:
    """One figure beside what it should be: `at most` or `at least` `target`; None when it could not be measured."""

    name: str
    value: float | None
    unit: str
    target: float
    sense: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None when it could not be measured.

        >>> Target("p99", 9.0, "ms", 10.0).met, Target("speed", 9.0, "times", 10.0, "at least").met
        (True, False)
        """
        if self.value is None:
            return None
        return self.value <= self.target if self.sense == "at most" else self.value >= self.target


@dataclass(frozen=True, slots=True)
class Findings:
    """The outcome of one benchmark.

    Attributes:
        rows: one measurement each, as column → text, number or None. All rows have the same columns.
        targets: the figures that matter, beside what they should be.
        picture: draws the PNG.
        notes: what a reader must know, such as a peer that is not installed.
    """

    rows: list[dict[str, Any]]
    targets: list[Target]
    picture: Callable[[], bytes]
    notes: list[str] = field(default_factory=list)

    def to_json(self, bench: str, machine: Machine, run: Mapping[str, str]) -> bytes:
        """Return all but the picture."""
        targets = [
            {
                "name": each.name,
                "value": each.value,
                "unit": each.unit,
                "target": each.target,
                "sense": each.sense,
                "met": each.met,
            }
            for each in self.targets
        ]
        content = {
            "bench": bench,
            "machine": machine,
            "run": run,
            "results": self.rows,
            "targets": targets,
            "notes": self.notes,
        }
        return msgspec.json.format(msgspec.json.encode(content), indent=2)
