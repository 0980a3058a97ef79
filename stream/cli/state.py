"""`samstream state`: what lies in the state directory and among the snapshots, for a person to see and to mend."""

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table

from state.behavior import BehaviorArray
from state.errors import SnapshotError, StateError
from state.partition import Partition
from state.snapshots import Manifest, Snapshots
from stream.errors import WorkerError
from stream.schema.partitioner import partition_of
from stream.settings import Settings, StateSettings

_SHOWN = 20


def run_state(arguments: argparse.Namespace, settings: Settings) -> int:
    """Do what `arguments.action` says; returns the exit status."""
    console = Console()
    actions = {"list": _list, "verify": _verify, "restore": _restore, "show": _show}
    return actions[arguments.action](arguments, settings, console)


def _list(_arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    places = f"state in {settings.state.directory}, snapshots in {settings.state.snapshots or 'no place'}"
    table = Table("partition", "what", "size", "age", "read up to", title=places)
    for number in range(settings.topics.partitions):
        if (path := settings.state.path(number)).is_dir():
            size = sum(file.stat().st_size for file in path.iterdir())
            table.add_row(str(number), "state", _megabytes(size), "", _reached_locally(settings.state, path))
        if settings.state.snapshots:
            store = _store(settings, number)
            for snapshot in store.numbers():
                try:
                    found = store.manifest(snapshot)
                except SnapshotError as error:
                    table.add_row(str(number), f"snapshot {snapshot}", "", "", str(error))
                    continue
                age = f"{time.time() - found.taken_ms / 1000:,.0f} s"
                table.add_row(str(number), f"snapshot {snapshot}", _megabytes(found.size), age, _reached(found))
    console.print(table)
    return 0


def _verify(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Read every snapshot whole; 1 when one of them is damaged."""
    damaged = 0
    with _progress(console) as progress:
        for number in _numbers(arguments, settings):
            store = _store(settings, number)
            for snapshot in store.numbers():
                task = progress.add_task(f"partition {number}, snapshot {snapshot}", total=None)
                try:
                    store.verify(snapshot, lambda done, total, t=task: progress.update(t, completed=done, total=total))  # type: ignore[misc]
                except SnapshotError as error:
                    damaged += 1
                    console.print(f"damaged: {error}")
    return 1 if damaged else 0


def _restore(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Restore the newest whole snapshot (or the one named) of each partition that has no state here."""
    failed = 0
    with _progress(console) as progress:
        for number in _numbers(arguments, settings):
            path = settings.state.path(number)
            if path.exists():
                console.print(f"partition {number}: {path} is there already")
                continue
            store = _store(settings, number)
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
    """Print the newest behaviours of one user; items are hashes in the state, so they are printed as such."""
    if not arguments.user:
        raise WorkerError("name the user: samstream state show --user ID")
    number = partition_of(arguments.user.encode(), settings.topics.partitions)
    partition = _open(settings.state, settings.state.path(number))
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


def _numbers(arguments: argparse.Namespace, settings: Settings) -> list[int]:
    return list(range(settings.topics.partitions)) if arguments.partition is None else [arguments.partition]


def _store(settings: Settings, number: int) -> Snapshots:
    if not settings.state.snapshots:
        raise WorkerError("there is no place for snapshots: set state.snapshots to a directory or an fsspec URL")
    return Snapshots(settings.state.snapshots, number, keep=settings.state.snapshots_kept)


def _open(settings: StateSettings, path: Path) -> Partition:
    if not path.is_dir():
        raise StateError(f"there is no state in {path}")
    return Partition.open(path, length=settings.length, slack=settings.slack)


def _reached_locally(settings: StateSettings, path: Path) -> str:
    try:
        partition = _open(settings, path)
    except StateError as error:
        return str(error)
    try:
        return ", ".join(f"{topic} {offset}" for topic, offset in partition.offsets.items())
    finally:
        partition.close()


def _reached(manifest: Manifest) -> str:
    return ", ".join(f"{topic} {offset}" for topic, offset in manifest.offsets.items())


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
