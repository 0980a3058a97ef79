"""`samstream arms`: starts a new arm with what another one has learned."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from stream.cli.options import Commands, add_settings_command, load_settings

_SHOWN = 12


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "start a new arm with what another one has learned"
    parser = add_settings_command(commands, "arms", run, text)
    parser.add_argument("action", choices=["init"], help="write a checkpoint that has the new arm as well")
    parser.add_argument("--from", dest="source", metavar="A", required=True, help="the arm that has learned")
    parser.add_argument("--to", dest="target", metavar="B", required=True, help="the new arm")


def run(arguments: argparse.Namespace) -> int:
    """Write the checkpoint, and say what was taken over; returns the exit status."""
    from stream.trainer.new_arm import add_arm

    settings = load_settings(arguments)
    path, started = add_arm(settings, arguments.target, arguments.source)
    console = Console(highlight=False, soft_wrap=True)
    for table, rows in started.rows.items():
        console.print(f"table {table}: {rows} rows of {arguments.source}")
    _print(console, "taken over", started.kept)
    for name, (common, inputs) in started.partly.items():
        console.print(f"taken over in part: {name}, {common} of {inputs} inputs; the others begin at zero")
    _print(console, "new, as in an arm that has not learned", started.fresh)
    _print(console, f"only {arguments.source} has", started.unused)
    console.print(f"arm {arguments.target} is in {path}: start the trainer, then the workers, with these settings")
    return 0


def _print(console: Console, what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        console.print(f"{what}: {', '.join(names[:_SHOWN])}{more}")
