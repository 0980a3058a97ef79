"""How far a backfill is, with what that is a position of; written whole or not at all."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from stream.backfill.columns import Unit
from stream.backfill.files import SourceFile
from stream.errors import BackfillError
from stream.schema.position import LogIdentity

FORMAT = 1
POSITION = "position.json"
REFUSED = "refused.jsonl"


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backfill writes, and where to: a position of one is none of another.

    Attributes:
        files: what is read.
        columns: field → column, as `--columns` maps them.
        unit: of whole numbers in columns of time.
        features: the features that are read, as text.
        logs: topic → which log is written to.
    """

    files: list[SourceFile]
    columns: dict[str, str]
    unit: Unit
    features: str
    logs: dict[str, LogIdentity]

    def difference(self, other: "Job") -> str:
        """Return in what another one differs; empty when it does not."""
        if self.logs != other.logs:
            changed = [
                f"{topic} is another one now (deleted and recreated, or of another cluster)"
                if topic in other.logs
                else f"{topic} is not written to now"
                for topic in self.logs
                if self.logs[topic] != other.logs.get(topic)
            ]
            return changed[0] if changed else f"it did not write to {', '.join(other.logs.keys() - self.logs.keys())}"
        theirs = {(each.source, each.path): each for each in other.files}
        for each in self.files:
            if (found := theirs.get((each.source, each.path))) is None:
                return f"it read {each.path} as well"
            if found != each:
                return f"{each.path} has changed since"
        if len(theirs) > len(self.files):
            more = sorted(path for _, path in theirs.keys() - {(each.source, each.path) for each in self.files})
            return f"it did not read {more[0]}"
        names = {"columns": "--columns", "unit": "--ts-unit", "features": "[features]"}
        return next(
            (f"{said} was another" for name, said in names.items() if getattr(self, name) != getattr(other, name)), ""
        )


class Position(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far it is.

    Attributes:
        job: what this is a position of.
        run: names it in the headers of its records.
        rows: of all files.
        runs: sorted run → its size in bytes.
        slices: slices of time that are written.
        offsets: topic → partition → the offset from which on records of the next slice may lie.
        rows_done: rows of those slices.
        records: topic → records written.
        refused: rows that were not written.
        refused_bytes: length of the file that keeps them, as of this position.
        done: whether all is written.
        format: of this file.
    """

    job: Job
    run: str
    rows: int
    runs: dict[str, int]
    offsets: dict[str, dict[int, int]]
    slices: int = 0
    rows_done: int = 0
    records: dict[str, int] = {}
    refused: int = 0
    refused_bytes: int = 0
    done: bool = False
    format: int = FORMAT


def load_position(directory: Path, job: Job) -> Position | None:
    """Return how far this job is; None when it has not begun to write.

    Raises:
        BackfillError: when the folder has the position of another job, or one that cannot be read.
    """
    path = directory / POSITION
    if not path.exists():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Position)
    except (OSError, msgspec.MsgspecError) as error:
        raise BackfillError(f"{path} cannot be read: {error}") from None
    if difference := found.job.difference(job):
        raise BackfillError(
            f"{path} is the position of another backfill: {difference}. To begin another one, give it a folder of its"
            f" own (--work); to write all of this again, beside what the topics have of it, remove {directory}"
        )
    return found


def save_position(directory: Path, position: Position) -> None:
    """Replace the position; after a crash the old one or the new one is there."""
    half = directory / f"{POSITION}.half"
    with half.open("wb") as file:
        file.write(msgspec.json.encode(position))
        file.flush()
        os.fsync(file.fileno())
    half.rename(directory / POSITION)


@contextmanager
def sole_backfill(directory: Path) -> Iterator[None]:
    """Lock a working folder, which is made where there is none; the lock ends with the process.

    Raises:
        BackfillError: when another process has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BackfillError(f"another backfill works in {directory}: let it end, or give this one --work") from None
        yield


def text_of(features: Mapping[str, Struct]) -> str:
    """Return features as text that is the same for the same ones."""
    return msgspec.json.encode(dict(sorted(features.items())), order="sorted").decode()
