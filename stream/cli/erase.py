"""`samstream erase`: has users forgotten, and waits until the jobs have done it if that is wanted."""

import argparse
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from stream.cli.options import Commands, add_settings_command, load_settings
from stream.cli.progress import counting
from stream.errors import EventError
from stream.kafka.clients import check_connection
from stream.kafka.eraser import Acknowledgements, Written, distinct_users, erase
from stream.kafka.topic_admin import verify
from stream.schema.topics import Topics
from stream.settings import Settings

Job = Literal["worker", "trainer", "monitor"]
_JOBS: tuple[Job, ...] = ("worker", "trainer", "monitor")
_POLL_S = 0.5
_SHOWN = 20


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_settings_command(commands, "erase", run, "have users forgotten; see docs/erasure.md")
    parser.add_argument("--user", action="append", default=[], metavar="ID", help="who; repeatable")
    parser.add_argument("--file", type=Path, metavar="PATH", help="users, one a line, UTF-8")
    parser.add_argument(
        "--wait",
        nargs="*",
        choices=_JOBS,
        metavar="JOB",
        help="wait until these jobs (default: worker, trainer and monitor) say that it is done",
    )
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="how long to wait (default %(default).0f s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Erase users; returns the exit status: 1 when a job has not said in time that it is done."""
    settings, console = load_settings(arguments), Console()
    topics = Topics(settings.topics.prefix)
    users = distinct_users([*arguments.user, *(_users_in(arguments.file) if arguments.file else [])])
    check_connection(settings.kafka)
    verify(settings.kafka, topics)
    with counting(console) as progress:
        task = progress.add_task("records written", total=2 * len(users))
        written = erase(settings.kafka, topics, users, told=lambda: progress.advance(task))
    _show(written, console)
    if arguments.wait is None:
        groups = ", ".join(settings.erasure_group(job) for job in _JOBS)
        console.print(
            f"Each job acknowledges what it has done as committed offset of {topics.erasures}, in the groups {groups}."
            " `--wait` waits for that; without these lines nothing is known of it.",
            highlight=False,
        )
        return 0
    return _wait(settings, topics, written, arguments.wait or _JOBS, arguments.timeout, console)


def _users_in(path: Path) -> list[str]:
    """Return the users in a file.

    Raises:
        EventError: when it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EventError(f"{path} cannot be read as users, one a line, UTF-8: {error}") from None
    return [line for line in lines if line]


def _show(written: Sequence[Written], console: Console) -> None:
    table = Table("user", "partition", "void before offset of behaviors", "offset in erasures")
    for each in written[:_SHOWN]:
        table.add_row(each.user, str(each.partition), str(each.marker), str(each.erasure))
    console.print(table)
    if len(written) > _SHOWN:
        console.print(f"and {len(written) - _SHOWN} more")


def _wait(
    settings: Settings,
    topics: Topics,
    written: Sequence[Written],
    jobs: Sequence[Job],
    timeout_s: float,
    console: Console,
) -> int:
    deadline = time.monotonic() + timeout_s
    late = 0
    for job in jobs:
        group = settings.erasure_group(job)
        with closing(Acknowledgements(settings.kafka, topics, group)) as done, counting(console) as progress:
            task = progress.add_task(f"{job}: done", total=len(written))
            while (left := done.left(written)) and time.monotonic() < deadline:
                progress.update(task, completed=len(written) - left)
                time.sleep(_POLL_S)
            progress.update(task, completed=len(written) - left)
        if left:
            late += 1
            console.print(
                f"{job}: {left} of {len(written)} not done within {timeout_s:.0f} s. Does one run? Once it does, it"
                " erases them: nothing has to be written again.",
                highlight=False,
            )
        else:
            console.print(f"{job}: done")
    return 1 if late else 0
