"""`samstream lab`: runs one experiment in virtual time, prints its figures, writes JSON and a picture."""

import argparse
from pathlib import Path

from stream.cli.findings import add_findings_command, run_case
from stream.cli.options import Commands, positive_int, positive_ints
from stream.datasets import NAMES
from stream.lab import LABS


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "measure what long histories and frequent updates bring, with the real models in virtual time, without Kafka"
    parser = add_findings_command(commands, "lab", run, text)
    parser.add_argument("lab", metavar="NAME", choices=list(LABS), help="; ".join(f"{n}: {t}" for n, t in LABS.items()))
    parser.add_argument("--seed", type=int, default=0, help="of the first world; the others have the next seeds")
    text = "how many worlds (default: arms 2, freshness 1, position 4)"
    parser.add_argument("--worlds", type=positive_int, metavar="N", help=text)
    text = "measured virtual time (default: arms, position 450, freshness 2400)"
    parser.add_argument("--seconds", type=float, metavar="S", help=text)
    text = "freshness, models: stop after N visits of the real data (default all)"
    parser.add_argument("--visits", type=positive_int, metavar="N", help=text)
    text = "models: presets, perhaps with options: sam,din,sam:passes=3 (default: every kind that reads histories)"
    parser.add_argument("--arms", type=lambda said: tuple(said.split(",")), default=(), metavar="NAMES", help=text)
    text = "models: how many behaviours are read, as in 50,200,1000 (default 1000)"
    parser.add_argument("--lengths", type=positive_ints, default=(1000,), metavar="NUMBERS", help=text)
    text = "models: how many seeds of the initial parameters (default %(default)s)"
    parser.add_argument("--seeds", type=positive_int, default=1, metavar="N", help=text)
    text = "models: which data set (default %(default)s)"
    parser.add_argument("--dataset", choices=(*NAMES, "world"), default="complete-journey", help=text)
    text = "models with --dataset world, position: a key of the simulated world to change; may be repeated"
    parser.add_argument("--world", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "models: whether all get the features that the data set has"
    parser.add_argument("--features", action=argparse.BooleanOptionalAction, default=True, help=text)
    text = "models: folder of what a run that was stopped has done (default %(default)s); removed at the end"
    parser.add_argument("--kept", type=Path, default=Path(".samstream/lab-models"), metavar="DIR", help=text)
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
        lambda findings: {"setting": setting, "tables": findings.tables, "notes": findings.notes, **findings.fields},
    )
