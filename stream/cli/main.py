"""The entry point of `samstream`: builds the parser from the commands, and maps errors to exit statuses."""

import argparse
import os
import sys
from collections.abc import Sequence

from model.errors import ModelError
from state.errors import StateError
from stream.cli import (
    arms,
    backfill,
    bench,
    dead_letters,
    erase,
    experiment,
    export,
    jobs,
    lab,
    replay,
    simulate,
    state,
    topics,
)
from stream.cli.options import Run
from stream.errors import StreamError
from stream.runtime import logs, signals

_COMMANDS = (simulate, jobs, replay, topics, state, dead_letters, erase, backfill, arms, export, experiment, bench, lab)
"""Modules with one or more commands, in the order in which `--help` lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # Before torch is imported: its idle threads must not spin and keep cores from others.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = _parser().parse_args(argv)
    logs.configure(arguments.log_level)
    run: Run = arguments.run
    signals.catch_ctrl_c()
    try:
        return run(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if signals.was_interrupted():
            return 130  # an interrupt inside a callback from C may surface as another exception
        if not isinstance(error, (StreamError, StateError, ModelError, OSError)):
            raise
        print(f"samstream {arguments.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="samstream",
        description="A streaming recommender that learns while it serves.",
        epilog="Settings: --config FILE, then environment SAMSTREAM_SECTION__KEY, then --set section.key=value.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser
