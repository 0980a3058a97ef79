"""Options that several commands share, and how their values are read."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from stream.settings import Settings, load

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns: argparse has no public name for it."""
Run = Callable[[argparse.Namespace], int]
"""Runs a command; returns its exit status."""

BROKER_HELP = "embedded, kafka (Apache Kafka in KAFKA_HOME), or HOST:PORT of a running cluster (default %(default)s)"


def add_command(commands: Commands, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """Add a command that reads no settings and logs warnings only."""
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run, log_level="WARNING")
    return parser


def add_settings_command(commands: Commands, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """Add a command that reads the settings; `load_settings` returns them."""
    parser = add_command(commands, name, run, text)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML or JSON")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="short for --set kafka.bootstrap.servers=…")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def settings_arguments(arguments: argparse.Namespace) -> list[str]:
    """Return the flags by which a command of its own reads the same settings, and logs as much."""
    flags = ["--config", str(arguments.config.resolve())] if arguments.config else []
    flags += [word for each in arguments.set for word in ("--set", each)]
    flags += ["--bootstrap", arguments.bootstrap] if arguments.bootstrap else []
    return [*flags, "--log-level", arguments.log_level]


def load_settings(arguments: argparse.Namespace, *, defaults: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a command that was added with `add_settings_command`.

    Args:
        arguments: the parsed command line.
        defaults: values that this command prefers to the general defaults.

    Raises:
        SettingsError: for a file that cannot be read, an unknown key or a value of the wrong type.
    """
    overrides = list(arguments.set)
    if arguments.bootstrap:
        overrides.append(f"kafka.bootstrap.servers={arguments.bootstrap}")
    return load(arguments.config, overrides=overrides, defaults=defaults)


def add_report_option(parser: argparse.ArgumentParser) -> None:
    """Add `--report`, the directory that a report is written to."""
    parser.add_argument("--report", type=Path, default=Path("report"), metavar="DIR", help="where the report goes")


def add_local_system_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that start a whole system on this machine."""
    parser.add_argument("--broker", default="embedded", help=BROKER_HELP)
    parser.add_argument("--workers", type=positive_int, default=1, help="worker processes (default %(default)s)")


def add_simulation_options(parser: argparse.ArgumentParser, *, seconds: float, pre_impressions: int) -> None:
    """Add the options of simulated traffic; the arguments are the defaults that differ between commands."""
    parser.add_argument("--seconds", type=float, default=seconds, help="length of the traffic (default %(default).0f)")
    parser.add_argument("--rate", type=float, default=40.0, help="impressions a second (default %(default).0f)")
    parser.add_argument("--users", type=positive_int, default=400, help="simulated users (default %(default)s)")
    text = "behaviours of each user before the traffic begins (default %(default)s)"
    parser.add_argument("--history", type=positive_int, default=1000, help=text)
    text = (
        "impressions of random items before the experiment; their clicks reduce the variance (CUPED; "
        "default %(default)s)"
    )
    parser.add_argument("--pre-impressions", type=natural_int, default=pre_impressions, metavar="N", help=text)
    add_report_option(parser)
    parser.add_argument("--plain", action="store_true", help="print lines instead of a live view")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated world and its users")
    text = "change one parameter of the simulated world; repeatable"
    parser.add_argument("--world", action="append", default=[], metavar="KEY=VALUE", help=text)


def positive_int(text: str) -> int:
    """Read an integer of at least 1.

    >>> positive_int("3")
    3
    """
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def positive_ints(text: str) -> tuple[int, ...]:
    """Return whole numbers above 0, between commas.

    >>> positive_ints("50,1000")
    (50, 1000)

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    return tuple(map(positive_int, text.split(",")))


def natural_int(text: str) -> int:
    """Read an integer of at least 0.

    >>> natural_int("0")
    0
    """
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def offset_range(text: str) -> range:
    """Read one offset, or the first and the last one of a range.

    >>> offset_range("5"), offset_range("5-17")
    (range(5, 6), range(5, 18))
    """
    first, dash, last = text.partition("-")
    try:
        return range(int(first), int(last if dash else first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError("write it as 5 or as 5-17") from None
