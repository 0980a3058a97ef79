"""`samstream bench`: runs one benchmark, prints what it found, and leaves it as JSON and as a picture."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from rich.console import Console
from rich.table import Table

from stream.bench import BENCHES, ON_BROKER
from stream.report.findings import Findings, Target
from stream.report.machine import this_machine, this_run
from stream.report.schema import Machine


class Bench(Protocol):
    """The module of a benchmark."""

    def run(self, arguments: argparse.Namespace, console: Console) -> Findings:
        """Measure; progress goes to the console. `arguments` has `broker` and `quick`."""


def run_bench(arguments: argparse.Namespace) -> int:
    """Run the benchmark `arguments.bench`; returns 0, whether targets are met or not."""
    console = Console(stderr=True)
    machine = this_machine()
    bench = cast("Bench", import_module(f"stream.bench.{arguments.bench}"))
    findings = bench.run(arguments, console)
    out = Console()
    out.print(f"[bold]{arguments.bench}[/bold]: {BENCHES[arguments.bench]}")
    out.print(machine_line(machine))
    out.print(table_of(findings.rows), _targets(findings.targets))
    for note in findings.notes:
        out.print(f"note: {note}")
    if arguments.json:
        arguments.json.write_bytes(findings.to_json(arguments.bench, machine, this_run(_command(arguments))))
    picture: Path = arguments.plot or Path(f"bench-{arguments.bench}.png")
    picture.write_bytes(findings.picture())
    out.print(f"picture: {picture}")
    return 0


def _command(arguments: argparse.Namespace) -> str:
    """Return what was run, without addresses and paths."""
    engine = "HOST:PORT" if ":" in arguments.broker else arguments.broker
    words = ["samstream bench", arguments.bench, *(["--broker", engine] if arguments.bench in ON_BROKER else [])]
    return " ".join([*words, *(["--quick"] if arguments.quick else [])])


def machine_line(machine: Machine) -> str:
    """Return the machine in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB, Python {machine.python}; {versions}"


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return rows, all with the same columns, as a table."""
    columns = list(rows[0]) if rows else []
    table = Table(*columns)
    for row in rows:
        table.add_row(*(said(row[column]) for column in columns))
    return table


def _targets(targets: list[Target]) -> Table:
    table = Table("target", "reached", "wanted", "", title="targets", title_justify="left")
    verdicts = {True: "[green]met[/green]", False: "[red]missed[/red]", None: "not measured"}
    for each in targets:
        wanted = f"{each.sense} {said(each.target)} {each.unit}"
        table.add_row(each.name, f"{said(each.value)} {each.unit}", wanted, verdicts[each.met])
    return table


def said(value: object) -> str:
    """Return a figure as people read it; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
