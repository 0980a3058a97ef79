"""Parquet and Arrow (Feather) files and folders of them: what they are, and their rows, a batch at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from xxhash import xxh3_128

from stream.backfill.columns import Source
from stream.errors import BackfillError

_PARQUET = (".parquet", ".pq")
_ARROW = (".arrow", ".feather", ".ipc")
_END = 1 << 20


class SourceFile(Struct, frozen=True):
    """A file, as it was when a backfill began.

    Attributes:
        source: what its rows are.
        path: where it lies, from the root on.
        size: in bytes.
        fingerprint: XXH3-128 of its first and last MiB. Behind the last one lies a file's own index, with the place and
            the statistics of every column, so files of other rows differ there.
        rows: how many it has.
    """

    source: Source
    path: str
    size: int
    fingerprint: str
    rows: int


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and those in folders that are, in the order of their names.

    Raises:
        BackfillError: for what is not there, is of no known suffix, or is a folder without such files.
    """
    known, found = (*_PARQUET, *_ARROW), []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.suffix in known and not _hidden(each, path))
            if not inside:
                raise BackfillError(f"{path} holds no files that end in {', '.join(known)}")
            found += inside
        elif not path.is_file():
            raise BackfillError(f"{path} is not there")
        elif path.suffix not in known:
            raise BackfillError(f"{path} must end in one of {', '.join(known)}, so that it is known what it is")
        else:
            found.append(path)
    if twice := {path for path in found if found.count(path) > 1}:
        raise BackfillError(f"{min(twice)} is named twice")
    return found


def identify(source: Source, path: Path) -> SourceFile:
    """Return what a file is.

    Raises:
        BackfillError: when it cannot be read.
    """
    with _reading(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            content = xxh3_128(file.read(_END))
            file.seek(max(size - _END, 0))
            content.update(file.read())
        return SourceFile(source, str(path.resolve()), size, content.hexdigest(), _open(path).rows)


def read_schema(path: Path) -> pa.Schema:
    """Return names and types of a file's columns.

    Raises:
        BackfillError: when it cannot be read.
    """
    with _reading(path):
        return _open(path).schema


def read_batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a file, some rows at a time, in its order.

    Raises:
        BackfillError: when it cannot be read.
    """
    with _reading(path):
        yield from _open(path).batches(columns, rows)


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        self.schema = self._file.schema_arrow
        self.rows = int(self._file.metadata.num_rows)

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        yield from self._file.iter_batches(batch_size=rows, columns=list(columns))


class _Arrow:
    def __init__(self, path: Path) -> None:
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        self.schema = self._file.schema
        self.rows = sum(self._file.get_batch(place).num_rows for place in range(self._file.num_record_batches))

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        for place in range(self._file.num_record_batches):
            batch = self._file.get_batch(place).select(list(columns))
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)


def _open(path: Path) -> _Parquet | _Arrow:
    return _Parquet(path) if path.suffix in _PARQUET else _Arrow(path)


def _hidden(path: Path, folder: Path) -> bool:
    """Return whether a file is none of the data's, as writers mark their own: `_metadata`, `.part`."""
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


class _reading:  # noqa: N801  a context manager
    """Makes what pyarrow and the operating system raise an error that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (pa.ArrowException, OSError)):
            said = (str(error) or repr(error)).splitlines()[0]
            raise BackfillError(f"{self._path} cannot be read: {said}") from error
