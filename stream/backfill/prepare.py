"""Brings the rows of all files into one form, sorted by time on disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from stream.backfill.columns import Column, Source, Unit, check_schema
from stream.backfill.files import SourceFile, read_batches, read_schema
from stream.backfill.position import Job
from stream.backfill.runs import ORIGIN, RunWriter, find_runs
from stream.errors import BackfillError
from stream.schema.units import unit_of

_READ_ROWS = 65_536

Watch = Callable[[str, int, int], None]
"""Is told, now and then, of the rows that are "read" or "written", and of how many."""


def sort_rows(
    job: Job, columns: Mapping[Source, Sequence[Column]], work: Path, *, memory_bytes: int, watch: Watch
) -> int:
    """Write the rows of all files as sorted runs; returns how many they are.

    Args:
        job: which files.
        columns: what is read of each source.
        work: where runs go; what a sort that was killed has left there is removed.
        memory_bytes: of rows that are sorted at once.
        watch: is told of progress.

    Raises:
        BackfillError: when a file cannot be read, or its times look like another unit.
    """
    for path in find_runs(work):
        path.unlink()
    total, done, number = sum(each.rows for each in job.files), 0, 0
    for source, wanted in columns.items():
        schema = pa.schema(
            [*((column.field, column.stored) for column in wanted), (ORIGIN[0], pa.int32()), (ORIGIN[1], pa.int64())]
        )
        runs = RunWriter(work, source, schema, first=number, most_bytes=memory_bytes)
        for place, file in enumerate(job.files):
            if file.source == source:
                for batch in _converted(file, place, wanted, schema, job.unit):
                    runs.add(batch)
                    done += batch.num_rows
                    watch("read", done, total)
        runs.flush()
        number = runs.number
    return done


def _converted(
    file: SourceFile, place: int, columns: Sequence[Column], schema: pa.Schema, unit: Unit
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in the form of its source, with where they come from."""
    path = Path(file.path)
    there = {column.field: column for column in check_schema(path, read_schema(path), columns)}
    start = 0
    names = list(dict.fromkeys(column.name for column in there.values()))
    for batch in read_batches(path, names, _READ_ROWS):
        count = batch.num_rows
        try:
            values = [
                column.convert(batch.column(column.name), unit)
                if column.field in there
                else pa.nulls(count, column.stored)
                for column in columns
            ]
        except pa.ArrowException as error:
            raise BackfillError(f"{path}, rows {start} to {start + count - 1}: {error}") from None
        if not start:
            _check_unit(path, there["ts"], values[[column.field for column in columns].index("ts")])
        origin = [pa.array([place] * count, pa.int32()), pa.array(range(start, start + count), pa.int64())]
        yield pa.RecordBatch.from_arrays([*values, *origin], schema=schema)
        start += count


def _check_unit(path: Path, column: Column, times: pa.Array) -> None:
    """See that times are milliseconds: as seconds, they would all be of January 1970.

    Raises:
        BackfillError: names the unit that they look like.
    """
    known = times.drop_null()
    if len(known) and (unit := unit_of(float(np.median(known.to_numpy())))):
        short = {"seconds": "s", "microseconds": "us", "nanoseconds": "ns"}[unit]
        raise BackfillError(f"{path}: column {column.name!r} looks like {unit}: give --ts-unit {short}")
