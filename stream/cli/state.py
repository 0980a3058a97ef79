"""`samstream state`: lists the state and its snapshots, verifies and restores snapshots, shows a user's sequence."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table

from state.behavior import BehaviorArray
from state.errors import SnapshotError, StateError
from state.partition import Partition
from state.snapshots import Snapshots
from stream.cli.options import Commands, add_settings_command, load_settings, positive_int
from stream.errors import WorkerError
from stream.schema.partitioner import partition_of
from stream.schema.position import decode_origin
from stream.settings import Settings, StateSettings

_SHOWN = 20


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "list the state and its snapshots, verify or restore snapshots, show a user's sequence"
    parser = add_settings_command(commands, "state", run, text)
    parser.add_argument("action", choices=["list", "verify", "restore", "show"], help="show needs --user")
    parser.add_argument("--partition", type=int, metavar="N", help="only this partition")
    parser.add_argument(
        "--snapshot", type=positive_int, metavar="N", help="restore this snapshot instead of the newest"
    )
    parser.add_argument("--user", metavar="ID", help="the user whose sequence to show")


def run(arguments: argparse.Namespace) -> int:
    """Do what `arguments.action` says; returns the exit status."""
    actions = {"list": _list, "verify": _verify, "restore": _restore, "show": _show}
    return actions[arguments.action](arguments, load_settings(arguments), Console())


def _list(_arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    title = f"state in {settings.state.directory}, snapshots in {settings.state.snapshots or 'no place'}"
    table = Table("partition", "what", "size", "age", "read up to", title=title)
    for number in range(_partition_count(settings)):
        kept = {"state": settings.state.path(number), "standby copy": settings.state.standby_path(number)}
        for what, path in kept.items():
            if path.is_dir():
                size = sum(file.stat().st_size for file in path.iterdir())
                table.add_row(str(number), what, _megabytes(size), "", _state_offsets(settings.state, path))
        if settings.state.snapshots:
            store = _snapshots(settings, number)
            for snapshot in store.numbers():
                try:
                    found = store.manifest(snapshot)
                except SnapshotError as error:
                    table.add_row(str(number), f"snapshot {snapshot}", "", "", str(error))
                    continue
                age = f"{time.time() - found.taken_ms / 1000:,.0f} s"
                table.add_row(
                    str(number), f"snapshot {snapshot}", _megabytes(found.size), age, _offsets_text(found.offsets)
                )
    console.print(table)
    return 0


def _verify(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Read every snapshot completely; the exit status is 1 when one of them is damaged."""
    damaged = 0
    with _progress(console) as progress:
        for number in _partitions(arguments, settings):
            store = _snapshots(settings, number)
            for snapshot in store.numbers():
                task = progress.add_task(f"partition {number}, snapshot {snapshot}", total=None)
                try:
                    store.verify(snapshot, lambda done, total, t=task: progress.update(t, completed=done, total=total))  # type: ignore[misc]
                except SnapshotError as error:
                    damaged += 1
                    console.print(f"damaged: {error}")
    return 1 if damaged else 0


def _restore(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Restore the newest intact snapshot (or `--snapshot`) of each partition that has no state here."""
    failed = 0
    with _progress(console) as progress:
        for number in _partitions(arguments, settings):
            path = settings.state.path(number)
            if path.exists():
                console.print(f"partition {number}: {path} exists already")
                continue
            store = _snapshots(settings, number)
            for snapshot in [arguments.snapshot] if arguments.snapshot else reversed(store.numbers()):
                task = progress.add_task(f"partition {number}, snapshot {snapshot}", total=None)
                began = time.monotonic()
                try:
                    manifest = store.restore(
                        snapshot,
                        path,
                        lambda done, total, t=task: progress.update(t, completed=done, total=total),  # type: ignore[misc]
                    )
                    took = time.monotonic() - began
                    console.print(
                        f"partition {number}: snapshot {snapshot} restored, {_megabytes(manifest.size)} in {took:.1f} s"
                    )
                    break
                except SnapshotError as error:
                    console.print(f"partition {number}: {error}")
            else:
                failed += 1
                console.print(f"partition {number}: no snapshot could be restored")
    return 1 if failed else 0


def _show(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Print the newest behaviours of one user, with hashes of items: the state holds no names."""
    if not arguments.user:
        raise WorkerError("samstream state show needs --user ID")
    number = partition_of(arguments.user.encode(), _partition_count(settings))
    partition = _open_state(settings.state, settings.state.path(number))
    try:
        count = partition.sequences.count(arguments.user)
        sequence = partition.sequences.read(arguments.user).copy()
    finally:
        partition.close()
    console.print(f"{arguments.user}: partition {number}, {count} behaviours so far, {len(sequence)} kept")
    console.print(_behaviors_table(sequence[-_SHOWN:]))
    return 0


def _behaviors_table(sequence: BehaviorArray) -> Table:
    table = Table("time (UTC)", "item key", "category key", "action key", title=f"the newest {len(sequence)}")
    for item, category, action, ts in reversed(sequence.tolist()):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ts / 1000))
        table.add_row(when, f"{item:016x}", f"{category:08x}", f"{action:04x}")
    return table


def _partitions(arguments: argparse.Namespace, settings: Settings) -> list[int]:
    return list(range(_partition_count(settings))) if arguments.partition is None else [arguments.partition]


def _partition_count(settings: Settings) -> int:
    """Return how many partitions the topics have: as some state here has noted, else as the settings say."""
    for path in sorted(Path(settings.state.directory).glob("partition-*")):
        try:
            partition = _open_state(settings.state, path)
        except StateError:
            continue  # a worker has it open, or it is damaged
        origins = [decode_origin(text) for text in partition.origins.values()]
        partition.close()
        for origin in filter(None, origins):
            return origin.log.partitions
    return settings.topics.partitions


def _snapshots(settings: Settings, number: int) -> Snapshots:
    if not settings.state.snapshots:
        raise WorkerError("snapshots are off: set state.snapshots to a directory or an fsspec URL")
    return Snapshots(settings.state.snapshots, number, keep=settings.state.snapshots_kept)


def _open_state(settings: StateSettings, path: Path) -> Partition:
    if not path.is_dir():
        raise StateError(f"there is no state in {path}")
    return Partition.open(path, length=settings.length, slack=settings.slack)


def _state_offsets(settings: StateSettings, path: Path) -> str:
    try:
        partition = _open_state(settings, path)
    except StateError as error:
        return str(error)
    try:
        return _offsets_text(partition.offsets)
    finally:
        partition.close()


def _offsets_text(offsets: Mapping[str, int]) -> str:
    return ", ".join(f"{topic} {offset}" for topic, offset in offsets.items())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)
