"""What the measured tables are put together of: entries, figures with units and intervals, targets, captions."""

from collections.abc import Mapping, Sequence
from typing import Any

from docs.generator.markdown import percent, table
from docs.generator.measured import Entry, Measured, MeasuredError
from stream.report.findings import cell_text

Row = Mapping[str, Any]

COUNTED = ("behaviors", "impressions", "clicks", "samples")
"""Kinds of records that the fault campaign counts."""


def entry_of(measured: Measured, name: str) -> Entry:
    """Return what was measured under a name.

    Raises:
        MeasuredError: when nothing was.
    """
    if name not in measured:
        raise MeasuredError(f"docs/measured.json has no {name!r}: measure it, then `python -m docs.generator add FILE`")
    return measured[name]


def caption(entry: Entry) -> str:
    """Say when, where and how it was measured."""
    how = f"`{entry.command}`" if entry.command else "an earlier run, of which only these figures were kept"
    said = [part for part in (entry.date, entry.machine, entry.note, how) if part]
    return f"*Measured {'; '.join(said)}.*"


def targets_table(entry: Entry) -> str:
    """Return what was wanted, and what was reached."""
    rows = [
        (each["name"], with_unit(each["value"], each["unit"]), wanted_text(each), _met(each))
        for each in entry.result.get("targets", ())
    ]
    return table(("target", "reached", "wanted", ""), rows)


def wanted_text(target: Row) -> str:
    """Return what a target wants, with its unit."""
    return f"{target['sense']} {with_unit(target['target'], target['unit'])}"


def _met(target: Row) -> str:
    return {True: "met", False: "**missed**", None: "not measured"}[target["met"]]


def with_unit(value: float | None, unit: str) -> str:
    """Return a figure with its unit."""
    if value is None:
        return "–"
    return percent(value) + f" {unit}" if unit == "of worlds" else f"{cell_text(value)} {unit}"


def joined(*parts: str) -> str:
    """Return paragraphs and tables as one text."""
    return "\n\n".join(parts)


def plain_number(value: float | None, *, signed: bool = False) -> str:
    """Return a number with four digits."""
    return "–" if value is None else f"{value:{'+' if signed else ''}.4g}".replace("-", "−")


def lift_text(interval: Sequence[float]) -> str:
    """Return a relative change with its interval, in percent."""
    value, low, high = (percent(each, digits=0, signed=True) for each in interval)
    return f"{value} ({low} to {high})"


def lab_cell(name: str, row: Row) -> str:
    """Return a value with its interval; click rates, regret and lifts in percent, what is near 1 with four digits."""
    signed = "lift" in name or "over" in name or "more" in name
    form = plain_number if "AUC" in name or "loss" in name else percent
    value = row.get(name)
    if isinstance(value, str) or name == "samples":
        return cell_text(value)
    low, high = row.get(f"{name} low"), row.get(f"{name} high")
    said = form(value, signed=signed)
    return said if low is None else f"{said} ({form(low, signed=signed)} to {form(high, signed=signed)})"
