"""The jobs of the system, each until SIGTERM or Ctrl-C: worker, trainer, monitor, gateway and bandit."""

import argparse
import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stream.cli.options import Commands, add_settings_command, load_settings, positive_int, settings_arguments
from stream.errors import KafkaSilentError, SettingsError
from stream.runtime.logs import log
from stream.runtime.signals import stop_event
from stream.settings import Settings

_logger = logging.getLogger("samstream")


def add_parser(commands: Commands) -> None:
    """Add the five commands."""
    text = "keep users' sequences, answer impressions, label clicks"
    add_settings_command(commands, "worker", run_worker, text)
    trainer = add_settings_command(
        commands, "trainer", run_trainer, "learn from samples, publish updates, save checkpoints"
    )
    text = "run so many processes on this machine as one trainer; torchrun starts them on several"
    trainer.add_argument("--ranks", type=positive_int, default=1, metavar="N", help=text)
    text = "compute the arms' results from the topics, publish them, and show them on a live page"
    add_settings_command(commands, "monitor", run_monitor, text)
    text = "answer over HTTP: rank, take clicks and behaviours, in front of the topics"
    add_settings_command(commands, "gateway", run_gateway, text)
    text = "choose the arms' shares by the clicks of the users who explore (Thompson sampling)"
    add_settings_command(commands, "bandit", run_bandit, text)


def run_worker(arguments: argparse.Namespace) -> int:
    """Run a worker; returns the exit status."""
    from stream.worker.worker import run_worker

    run_until_stopped(run_worker, load_settings(arguments), stop_event())
    return 0


def run_trainer(arguments: argparse.Namespace) -> int:
    """Run the trainer, or one rank of it, or all its ranks; returns the exit status."""
    settings = load_settings(arguments)
    if arguments.ranks > 1:
        from stream.trainer.launcher import run_ranks

        return run_ranks(arguments.ranks, settings_arguments(arguments), stop_event())
    from model.distributed.group import rank_of_environment
    from stream.trainer.run import run_trainer

    os.nice(settings.trainer.nice)  # applies to this thread, which learns, and to the threads that it starts
    if rank_of_environment().ranks > 1:
        with _exit_without_finalizing():
            run_trainer(settings, stop_event(), threading.Event())  # a rank that starts over needs the others to
    else:
        run_until_stopped(run_trainer, settings, stop_event())
    return 0


@contextmanager
def _exit_without_finalizing() -> Iterator[None]:
    """End the process, once the interpreter begins to, with status 0 if the body ends, else 1.

    A thread of a process group that comes back while the interpreter is finalized would abort the process instead.
    """
    status = 1

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
    yield
    status = 0


def run_monitor(arguments: argparse.Namespace) -> int:
    """Run the monitor; returns the exit status."""
    from stream.monitor.run import run_monitor

    return run_monitor(load_settings(arguments))


def run_bandit(arguments: argparse.Namespace) -> int:
    """Run the bandit; returns the exit status."""
    from stream.bandit.run import run_bandit

    run_until_stopped(run_bandit, load_settings(arguments), stop_event())
    return 0


def run_gateway(arguments: argparse.Namespace) -> int:
    """Run a gateway; returns the exit status.

    Raises:
        SettingsError: when the extra `gateway` is not installed.
    """
    settings = load_settings(arguments)
    try:
        from stream.gateway.web.server import run_gateway
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{error.name} is not installed: pip install 'samstream[gateway]' (or -e '.[gateway]' in a clone)"
        ) from None
    run_until_stopped(run_gateway, settings, stop_event())
    return 0


def run_until_stopped(
    job: Callable[[Settings, threading.Event, threading.Event], None], settings: Settings, stop: threading.Event
) -> None:
    """Run a job; where Kafka falls silent while it works, run it again, as a supervisor would after a crash.

    Args:
        job: takes the settings, `stop`, and an event that it sets when it has all that it begins with.
        settings: the configuration.
        stop: ends the job in order.

    Raises:
        KafkaSilentError: when Kafka is silent from the start.
    """
    begun = threading.Event()
    while True:
        try:
            return job(settings, stop, begun)
        except KafkaSilentError as error:
            if not begun.is_set() or stop.is_set():
                raise
            log(_logger, "restarting", logging.WARNING, error=error)
