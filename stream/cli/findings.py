"""What `bench` and `lab` share: a module runs, and its findings are printed and written as JSON and a picture."""

import argparse
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from rich.console import Console

from stream.cli.options import Commands, add_command

if TYPE_CHECKING:
    from stream.report.findings import Findings


class Case(Protocol):
    """The module of a benchmark or of a lab experiment."""

    def run(self, arguments: argparse.Namespace, console: Console) -> "Findings":
        """Measure; progress goes to the console. `arguments` are those of the command."""


def add_findings_command(
    commands: Commands, command: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """Add a command with `--json`, `--plot` and `--quick`."""
    parser = add_command(commands, command, run, text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"the picture (default {command}-NAME.png)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats, to see that it runs")
    parser.set_defaults(default_of=parser.get_default)
    return parser


def run_case(
    arguments: argparse.Namespace,
    cases: Mapping[str, str],
    json_fields: Callable[["Findings"], Mapping[str, Any]],
) -> int:
    """Run the module `stream.COMMAND.NAME` that the arguments name; returns 0, whether targets are met or not.

    Args:
        arguments: the parsed command line.
        cases: name → what it measures.
        json_fields: what the JSON has besides the name and the machine.
    """
    from stream.report.findings import print_findings, to_json
    from stream.report.machine import this_machine, this_run

    command: str = arguments.command
    name: str = getattr(arguments, command)
    machine = this_machine()
    case = cast("Case", import_module(f"stream.{command}.{name}"))
    findings = case.run(arguments, Console(stderr=True))
    console = Console()
    console.print(f"[bold]{name}[/bold]: {cases[name]}")
    print_findings(console, findings, machine)
    if arguments.json:
        run = this_run(_command_line(arguments, command, name))
        arguments.json.write_bytes(to_json({command: name, "machine": machine, "run": run, **json_fields(findings)}))
    picture: Path = arguments.plot or Path(f"{command}-{name}.png")
    picture.write_bytes(findings.picture())
    console.print(f"picture: {picture}")
    return 0


def _command_line(arguments: argparse.Namespace, command: str, name: str) -> str:
    """Return the command that was run, without addresses, paths, and options that are as by default."""
    words = ["samstream", command, name]
    for key, value in sorted(vars(arguments).items()):
        if key in _TOLD and value != arguments.default_of(key):
            said = "HOST:PORT" if key == "broker" and ":" in value else value
            said = ",".join(map(str, said)) if isinstance(said, list | tuple) else str(said)
            words += [f"--{key}" if value else f"--no-{key}"] if isinstance(value, bool) else [f"--{key}", said]
    return " ".join(words)


_TOLD = frozenset(
    (
        *(
            "arms",
            "broker",
            "dataset",
            "features",
            "lengths",
            "minutes",
            "negatives",
            "peers",
            "processes",
            "quick",
            "seconds",
        ),
        *("seed", "seeds", "visits", "world", "worlds"),
    )
)
"""The flags that a figure depends on."""
