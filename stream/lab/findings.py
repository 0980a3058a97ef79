"""What a laboratory found: tables for people, the same for machines, and a picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from stream.experiment.statistics.intervals import Interval
from stream.report.schema import Machine

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Findings:
    """The outcome of one experiment of the laboratory.

    Attributes:
        tables: title → rows, as column → text, number or None; rows of a table have the same columns.
        notes: what a reader must know.
        picture: draws the PNG.
    """

    tables: Mapping[str, Rows]
    notes: list[str]
    picture: Callable[[], bytes]

    def to_json(self, lab: str, machine: Machine, setting: Mapping[str, Any], run: Mapping[str, str]) -> bytes:
        """Return all but the picture, with what it was asked for."""
        content = {
            "lab": lab,
            "machine": machine,
            "run": run,
            "setting": setting,
            "tables": self.tables,
            "notes": self.notes,
        }
        return msgspec.json.format(msgspec.json.encode(content), indent=2)


def limits(name: str, interval: Interval) -> dict[str, float | None]:
    """Return an interval as three columns; None where it is undefined.

    >>> limits("CTR", Interval(0.2, 0.1, 0.3))
    {'CTR': 0.2, 'CTR low': 0.1, 'CTR high': 0.3}
    """
    known = interval.value == interval.value
    low, high = (each if each == each else None for each in interval[1:])
    return {name: interval.value if known else None, f"{name} low": low, f"{name} high": high}
