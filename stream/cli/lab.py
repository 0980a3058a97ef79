"""`samstream lab`: runs one experiment in virtual time, prints its figures, writes JSON and a picture."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from rich.console import Console

from stream.cli.options import Commands, add_command, add_findings_options, positive_int
from stream.lab import LABS

if TYPE_CHECKING:
    from stream.report.findings import Findings


class Lab(Protocol):
    """The module of a lab experiment."""

    def run(self, arguments: argparse.Namespace, console: Console) -> "Findings":
        """Run the experiment; progress goes to the console. `arguments` are those of the command."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "measure what long histories and frequent updates bring, with the real models in virtual time, without Kafka"
    parser = add_command(commands, "lab", run, text)
    parser.add_argument("lab", metavar="NAME", choices=list(LABS), help="; ".join(f"{n}: {t}" for n, t in LABS.items()))
    add_findings_options(parser, "lab")
    parser.add_argument("--seed", type=int, default=0, help="of the first world; the others have the next seeds")
    parser.add_argument(
        "--worlds", type=positive_int, metavar="N", help="how many worlds (default: arms 2, freshness 1)"
    )
    text = "measured virtual time (default: arms 450, freshness 2400)"
    parser.add_argument("--seconds", type=float, metavar="S", help=text)
    text = "freshness: stop after N visits of the real baskets (default all)"
    parser.add_argument("--visits", type=positive_int, metavar="N", help=text)
    text = "how many processes run in parallel (default %(default)s)"
    parser.add_argument("--processes", type=positive_int, default=2, metavar="N", help=text)
    text = "folder of The Complete Journey (default ../shared/data/complete_journey, else the installed package)"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment `arguments.lab`; returns 0."""
    from stream.report.findings import print_findings, to_json
    from stream.report.machine import this_machine

    machine = this_machine()
    lab = cast("Lab", import_module(f"stream.lab.{arguments.lab}"))
    findings = lab.run(arguments, Console(stderr=True))
    console = Console()
    console.print(f"[bold]{arguments.lab}[/bold]: {LABS[arguments.lab]}")
    print_findings(console, findings, machine)
    if arguments.json:
        content = {
            "lab": arguments.lab,
            "machine": machine,
            "setting": {key: getattr(arguments, key) for key in ("quick", "seed", "worlds", "seconds", "visits")},
            "tables": findings.tables,
            "notes": findings.notes,
        }
        arguments.json.write_bytes(to_json(content))
    picture: Path = arguments.plot or Path(f"lab-{arguments.lab}.png")
    picture.write_bytes(findings.picture())
    console.print(f"picture: {picture}")
    return 0
