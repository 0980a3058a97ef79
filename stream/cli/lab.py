"""`samstream lab`: runs one experiment in virtual time, prints its figures, writes JSON and a picture."""

import argparse
from pathlib import Path

from stream.cli.findings import add_findings_command, run_case
from stream.cli.options import Commands, positive_int
from stream.lab import LABS


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "measure what long histories and frequent updates bring, with the real models in virtual time, without Kafka"
    parser = add_findings_command(commands, "lab", run, text)
    parser.add_argument("lab", metavar="NAME", choices=list(LABS), help="; ".join(f"{n}: {t}" for n, t in LABS.items()))
    parser.add_argument("--seed", type=int, default=0, help="of the first world; the others have the next seeds")
    text = "how many worlds (default: arms 2, freshness 1)"
    parser.add_argument("--worlds", type=positive_int, metavar="N", help=text)
    text = "measured virtual time (default: arms 450, freshness 2400)"
    parser.add_argument("--seconds", type=float, metavar="S", help=text)
    text = "freshness: stop after N visits of the real baskets (default all)"
    parser.add_argument("--visits", type=positive_int, metavar="N", help=text)
    text = "how many processes run in parallel (default %(default)s)"
    parser.add_argument("--processes", type=positive_int, default=2, metavar="N", help=text)
    text = "folder of The Complete Journey (default ../shared/data/complete_journey, else the installed package)"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment `arguments.lab`; returns the exit status."""
    setting = {key: getattr(arguments, key) for key in ("quick", "seed", "worlds", "seconds", "visits")}
    return run_case(
        arguments,
        LABS,
        lambda findings: {"setting": setting, "tables": findings.tables, "notes": findings.notes},
    )
