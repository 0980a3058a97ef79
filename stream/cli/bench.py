"""`samstream bench`: runs one benchmark, prints its figures, writes JSON and a picture."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from rich.console import Console

from stream.bench import BENCHES
from stream.cli.options import BROKER_HELP, Commands, add_command, add_findings_options

if TYPE_CHECKING:
    from stream.report.findings import Findings


class Bench(Protocol):
    """The module of a benchmark."""

    def run(self, arguments: argparse.Namespace, console: Console) -> "Findings":
        """Measure; progress goes to the console. `arguments` are those of the command, such as `broker`, `quick`."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "measure one part of the system, and what it is compared with, in the same run"
    parser = add_command(commands, "bench", run, text)
    parser.add_argument("bench", metavar="NAME", choices=list(BENCHES), help=", ".join(BENCHES))
    add_findings_options(parser, "bench")
    parser.add_argument("--broker", default="embedded", help=BROKER_HELP)
    text = "the Python interpreter that has Faust and Quix Streams installed"
    parser.add_argument("--peer-python", default=sys.executable, metavar="FILE", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark `arguments.bench`; returns 0, whether targets are met or not."""
    from stream.report.findings import print_findings, to_json
    from stream.report.machine import this_machine

    machine = this_machine()
    bench = cast("Bench", import_module(f"stream.bench.{arguments.bench}"))
    findings = bench.run(arguments, Console(stderr=True))
    console = Console()
    console.print(f"[bold]{arguments.bench}[/bold]: {BENCHES[arguments.bench]}")
    print_findings(console, findings, machine)
    if arguments.json:
        content = {
            "bench": arguments.bench,
            "machine": machine,
            "results": findings.tables["results"],
            "targets": [target.as_json() for target in findings.targets],
            "notes": findings.notes,
        }
        arguments.json.write_bytes(to_json(content))
    picture: Path = arguments.plot or Path(f"bench-{arguments.bench}.png")
    picture.write_bytes(findings.picture())
    console.print(f"picture: {picture}")
    return 0
