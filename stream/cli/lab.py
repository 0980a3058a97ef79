"""`samstream lab`: runs one experiment of the laboratory, prints what it found, leaves it as JSON and as a picture."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from rich.console import Console

from stream.cli.bench import machine_line, said, table_of
from stream.lab import LABS
from stream.lab.findings import Findings
from stream.report.machine import this_machine, this_run


class Lab(Protocol):
    """The module of an experiment."""

    def run(self, arguments: argparse.Namespace, console: Console) -> Findings:
        """Find out; progress goes to the console. `arguments` are those of the command."""


def run_lab(arguments: argparse.Namespace) -> int:
    """Run the experiment `arguments.lab`; returns 0."""
    machine = this_machine()
    lab = cast("Lab", import_module(f"stream.lab.{arguments.lab}"))
    findings = lab.run(arguments, Console(stderr=True))
    out = Console()
    out.print(f"[bold]{arguments.lab}[/bold]: {LABS[arguments.lab]}")
    out.print(machine_line(machine))
    for title, rows in findings.tables.items():
        table = table_of([_folded(row) for row in rows])
        table.title, table.title_justify = title, "left"
        out.print(table)
    for note in findings.notes:
        out.print(f"note: {note}", highlight=False)
    if arguments.json:
        setting = {key: getattr(arguments, key) for key in ("quick", "seed", "worlds", "seconds", "visits")}
        words = [f"--{key} {value:g}" for key, value in setting.items() if value is not None and key != "quick"]
        run = this_run(" ".join(["samstream lab", arguments.lab, *words, *(["--quick"] if arguments.quick else [])]))
        arguments.json.write_bytes(findings.to_json(arguments.lab, machine, setting, run))
    picture: Path = arguments.plot or Path(f"lab-{arguments.lab}.png")
    picture.write_bytes(findings.picture())
    out.print(f"picture: {picture}")
    return 0


def _folded(row: dict[str, Any]) -> dict[str, Any]:
    """Put an interval, which has three columns, into one."""
    folded = {}
    for name, value in row.items():
        if f"{name} low" in row:
            low, high = row[f"{name} low"], row[f"{name} high"]
            folded[name] = said(value) if low is None else f"{said(value)} [{said(low)}, {said(high)}]"
        elif not name.endswith((" low", " high")):
            folded[name] = value
    return folded
