"""What a benchmark or a lab experiment found: tables, targets, a picture, and how they are printed and written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.table import Column, Table

from stream.experiment.statistics.intervals import Interval
from stream.report.schema import Machine

Rows = list[dict[str, Any]]
"""Rows of a table, as column → text, number or None; all rows of a table have the same columns."""


@dataclass(frozen=True, slots=True)
class Target:
    """A measured value and its target, `at most` or `at least`; None when it could not be measured."""

    name: str
    value: float | None
    unit: str
    target: float
    sense: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None when the value could not be measured.

        >>> Target("p99", 9.0, "ms", 10.0).met, Target("speed", 9.0, "times", 10.0, "at least").met
        (True, False)
        """
        if self.value is None:
            return None
        return self.value <= self.target if self.sense == "at most" else self.value >= self.target

    def as_json(self) -> dict[str, Any]:
        """Return the target and whether it is met, for JSON."""
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of a benchmark or of a lab experiment.

    Attributes:
        tables: title → rows.
        picture: draws the PNG.
        targets: values with a target.
        notes: what a reader must know, such as a system that is not installed.
        fields: what the JSON has beside the tables.
    """

    tables: Mapping[str, Rows]
    picture: Callable[[], bytes]
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


def print_findings(console: Console, findings: Findings, machine: Machine) -> None:
    """Print the machine, the tables, the targets and the notes."""
    console.print(machine_line(machine))
    for title, rows in findings.tables.items():
        tables = to_tables([_with_intervals(row) for row in rows], console.width)
        tables[0].title, tables[0].title_justify = title, "left"
        for table in tables:
            console.print(table)
    if findings.targets:
        console.print(_targets_table(findings.targets))
    for note in findings.notes:
        console.print(f"note: {note}", highlight=False)


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return JSON that people can read as well."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2)


def machine_line(machine: Machine) -> str:
    """Return one line about the machine."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB, Python {machine.python}; {versions}"


def to_tables(rows: Rows, width: int) -> list[Table]:
    """Return rows as tables for a terminal of that width: as many as it needs, each with the first column."""
    texts = {column: [cell_text(row[column]) for row in rows] for column in (rows[0] if rows else [])}
    widths = {name: max(map(len, [name, *cells])) for name, cells in texts.items()}
    if sum(widths.values()) + 3 * len(widths) >= width:  # headers are broken between words, cells not at all
        widths = {name: max(map(len, [*name.split(), *cells])) for name, cells in texts.items()}
    pieces: list[list[str]] = []
    for name in texts:
        if not pieces or sum(widths[each] + 3 for each in [*pieces[-1], name]) >= width:
            pieces.append([next(iter(texts))] if pieces else [])
        pieces[-1].append(name)
    tables = [Table(*(Column(name, width=widths[name]) for name in piece)) for piece in pieces or [[]]]
    for piece, table in zip(pieces, tables, strict=False):
        for cells in zip(*(texts[name] for name in piece), strict=True):
            table.add_row(*cells)
    return tables


def cell_text(value: object) -> str:
    """Return a value as people read it; a dash for None.

    >>> cell_text(None), cell_text(0.12345), cell_text(123456.7), cell_text(1000)
    ('–', '0.123', '123,457', '1,000')
    """
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def interval_columns(name: str, interval: Interval) -> dict[str, float | None]:
    """Return an interval as three columns; None where it is undefined.

    >>> interval_columns("CTR", Interval(0.2, 0.1, 0.3))
    {'CTR': 0.2, 'CTR low': 0.1, 'CTR high': 0.3}
    """
    value, low, high = (each if each == each else None for each in interval)
    return {name: value, f"{name} low": low, f"{name} high": high}


def _with_intervals(row: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the three columns of each interval into one text."""
    merged = {}
    for name, value in row.items():
        if f"{name} low" in row:
            low, high = row[f"{name} low"], row[f"{name} high"]
            merged[name] = (
                cell_text(value) if low is None else f"{cell_text(value)} [{cell_text(low)}, {cell_text(high)}]"
            )
        elif not name.endswith((" low", " high")):
            merged[name] = value
    return merged


def _targets_table(targets: Sequence[Target]) -> Table:
    table = Table("target", "measured", "wanted", "", title="targets", title_justify="left")
    verdicts = {True: "[green]met[/green]", False: "[red]missed[/red]", None: "not measured"}
    for each in targets:
        wanted = f"{each.sense} {cell_text(each.target)} {each.unit}"
        table.add_row(each.name, f"{cell_text(each.value)} {each.unit}", wanted, verdicts[each.met])
    return table
