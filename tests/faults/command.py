"""What the commands of this folder have in common: flags, a broker and a directory, and how they end."""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from stream.local.broker import Broker, local_broker


class Balance(Protocol):
    """Accounts that can be shown and must balance."""

    def balanced(self) -> bool:
        """Say whether they do."""

    def table(self) -> str:
        """Return them for a person to read."""


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that all have: `--broker`, `--json` and `--directory`."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--broker", default="kafka" if os.environ.get("KAFKA_HOME") else "embedded")
    made.add_argument("--json", type=Path, metavar="FILE", help="write what was counted there")
    made.add_argument("--directory", type=Path, help="keep state, logs and checkpoints there")
    return made


@contextmanager
def broker_and_directory(arguments: argparse.Namespace) -> Iterator[tuple[Broker, Path]]:
    """Run the broker that is asked for, and yield it with the directory of the run."""
    with (
        tempfile.TemporaryDirectory(prefix="samstream-faults-") as scratch,
        local_broker(arguments.broker, Path(scratch) / "broker") as broker,
    ):
        yield broker, arguments.directory or Path(scratch)


def tell(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def conclude(arguments: argparse.Namespace, accounts: Balance, found: object) -> int:
    """Print the accounts, write what was found as JSON; returns 1 when the accounts do not balance."""
    print(accounts.table())
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))
    return 0 if accounts.balanced() else 1
