"""`samstream bench`: runs one benchmark, prints its figures, writes JSON and a picture."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from stream.bench import BENCHES
from stream.cli.findings import add_findings_command, run_case
from stream.cli.options import BROKER_HELP, Commands, positive_int
from stream.datasets import NAMES
from stream.datasets.candidates import Negatives

if TYPE_CHECKING:
    from stream.report.findings import Findings


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "measure one part of the system, and what it is compared with, in the same run"
    parser = add_findings_command(commands, "bench", run, text)
    parser.add_argument("bench", metavar="NAME", choices=list(BENCHES), help=", ".join(BENCHES))
    parser.add_argument("--broker", default="embedded", help=BROKER_HELP)
    text = "the Python interpreter that has Faust and Quix Streams installed"
    parser.add_argument("--peer-python", default=sys.executable, metavar="FILE", help=text)
    text = "soak: minutes of traffic (default %(default)g)"
    parser.add_argument("--minutes", type=_minutes, default=30.0, metavar="N", help=text)
    _add_learning_options(parser)


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 1 <= minutes <= 100_000:
        raise argparse.ArgumentTypeError(f"{text}: give 1 to 100000 minutes")
    return minutes


def _add_learning_options(parser: argparse.ArgumentParser) -> None:
    text = "learning, trees, forgetting: which data set (default %(default)s)"
    parser.add_argument("--dataset", choices=NAMES, default="complete-journey", help=text)
    parser.add_argument("--data", type=Path, metavar="DIR", help="learning, trees, forgetting: folder with its files")
    text = "trees: stop after N visits (default all)"
    parser.add_argument("--visits", type=positive_int, metavar="N", help=text)
    text = "learning, forgetting: whether all get the features that the data set has"
    parser.add_argument("--features", action=argparse.BooleanOptionalAction, default=True, help=text)
    text = "learning, trees, forgetting: how negatives are drawn (default %(default)s)"
    parser.add_argument("--negatives", choices=get_args(Negatives), default="popular", help=text)
    text = "learning: what else goes through the samples, as lightgbm,vw,river; needs samstream[peers]"
    parser.add_argument("--peers", type=lambda names: tuple(names.split(",")), default=(), metavar="NAMES", help=text)
    text = "learning, trees, forgetting: chooses the visits, and the initial parameters"
    parser.add_argument("--seed", type=int, default=0, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark `arguments.bench`; returns the exit status."""
    return run_case(arguments, BENCHES, _json_fields)


def _json_fields(findings: "Findings") -> dict[str, Any]:
    return {
        "results": findings.tables["results"],
        "targets": [target.as_json() for target in findings.targets],
        "notes": findings.notes,
    }
