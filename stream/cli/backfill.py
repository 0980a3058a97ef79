"""`samstream backfill`: history from Parquet or Arrow files into the topics, each row once, resumable."""

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from stream.cli.options import Commands, add_settings_command, load_settings, positive_int
from stream.cli.progress import counting
from stream.errors import BackfillError
from stream.runtime import signals
from stream.settings import Settings

_SHOW_S = 0.2


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "write history from Parquet or Arrow files into the topics, sorted by time, each row once"
    parser = add_settings_command(commands, "backfill", run, text)
    text = "behaviours: a file (.parquet, .arrow, .feather) or a folder of them; repeatable"
    parser.add_argument("--parquet", type=Path, action="append", default=[], metavar="PATH", help=text)
    text = "impressions with the label of each item, one a row; repeatable"
    parser.add_argument("--impressions", type=Path, action="append", default=[], metavar="PATH", help=text)
    text = "columns that are called otherwise, such as user=uid,item=sku,impressions.user=visitor"
    parser.add_argument("--columns", default="", metavar="FIELD=COLUMN,…", help=text)
    text = "unit of times that are whole numbers (default %(default)s)"
    parser.add_argument("--ts-unit", choices=["ms", "s", "us", "ns"], default="ms", help=text)
    text = "folder of this backfill: its position, sorted rows while it runs, refused rows (default: by topics.prefix)"
    parser.add_argument("--work", type=Path, metavar="DIR", help=text)
    text = "MB of rows that are sorted at once; about three times as much is used (default %(default)s)"
    parser.add_argument("--memory", type=positive_int, default=512, metavar="MB", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Write history, or go on where a run that ended had come to; returns the exit status."""
    try:
        from stream.backfill.columns import parse_names
        from stream.backfill.job import History, run_backfill
        from stream.backfill.position import REFUSED
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise BackfillError("reading Parquet and Arrow files needs pyarrow: pip install 'samstream[parquet]'") from None
    if not arguments.parquet and not arguments.impressions:
        raise BackfillError("name files to read: --parquet PATH of behaviours, --impressions PATH, or both")
    settings = load_settings(arguments)
    work = arguments.work or _default_work(settings)
    history = History(
        behaviors=arguments.parquet,
        impressions=arguments.impressions,
        names=parse_names(arguments.columns),
        unit=arguments.ts_unit,
    )
    console = Console(highlight=False, soft_wrap=True)
    with counting(console) as progress:
        tasks: dict[str, TaskID] = {}
        shown = 0.0

        def watch(stage: str, done: int, total: int) -> None:
            nonlocal shown
            signals.raise_if_interrupted()
            now = time.monotonic()
            if now - shown >= _SHOW_S or done == total:
                shown = now
                if stage not in tasks:  # what goes on reads nothing
                    tasks[stage] = progress.add_task(f"rows {stage}")
                progress.update(tasks[stage], completed=done, total=total)

        position = run_backfill(settings, history, work, memory_bytes=arguments.memory << 20, watch=watch)
    for topic, records in position.records.items():
        console.print(f"{topic}: {records} records written")
    if position.refused:
        console.print(f"{position.refused} of {position.rows} rows refused: they are in {work / REFUSED}, with reasons")
    return 0


def _default_work(settings: Settings) -> Path:
    prefix = settings.topics.prefix
    return Path(f".samstream/prefix-{prefix}/backfill" if prefix else ".samstream/backfill")
