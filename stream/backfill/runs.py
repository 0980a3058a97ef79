"""Sorts rows by time without holding them all: sorted runs on disk, merged a slice of time at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stream.backfill.columns import Source

ORIGIN = ("_file", "_row")
"""Columns of a run that say where a row comes from: which file, and which row of it, both from 0."""
_TIME = "_time"
_LAST = np.iinfo(np.int64).max
_BATCH_ROWS = 8192


class RunWriter:
    """Gathers rows of one source, and writes them to disk as sorted runs of bounded size.

    Args:
        directory: where runs go, as `run-00000-<source>.arrow`, numbered in the order of their rows.
        source: what the rows are.
        schema: of the rows, with `ts` and `ORIGIN`.
        first: number of the first run.
        most_bytes: of the rows that are sorted at once; sorting takes as much again.
    """

    def __init__(self, directory: Path, source: Source, schema: pa.Schema, *, first: int, most_bytes: int) -> None:
        self._directory = directory
        self._source = source
        self._schema = schema.append(pa.field(_TIME, pa.int64()))
        self._most_bytes = most_bytes
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        self.number = first
        """Of the next run."""

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows; they follow those before."""
        time = rows.column("ts").fill_null(_LAST)  # what has no time comes last, and is refused there
        self._waiting.append(pa.RecordBatch.from_arrays([*rows.columns, time], schema=self._schema))
        self._bytes += rows.nbytes
        if self._bytes >= self._most_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a run."""
        if not self._waiting:
            return
        rows = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
        order = np.argsort(rows.column(_TIME).to_numpy(), kind="stable")
        path = self._directory / f"run-{self.number:05d}-{self._source}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(str(path), self._schema, options=options) as writer:
            for start in range(0, len(order), _BATCH_ROWS):
                writer.write_table(rows.take(pa.array(order[start : start + _BATCH_ROWS])), _BATCH_ROWS)
        self._waiting, self._bytes = [], 0
        self.number += 1


@dataclass(slots=True)
class _Cursor:
    """How far a run is read."""

    source: Source
    file: Any
    next_batch: int = 0
    rows: pa.Table | None = None
    times: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def fill(self) -> None:
        """Read the next batch, where nothing is left of the one before."""
        while not len(self.times) and self.unread:
            self.rows = pa.Table.from_batches([self.file.get_batch(self.next_batch)])
            self.times = self.rows.column(_TIME).to_numpy()
            self.next_batch += 1

    @property
    def unread(self) -> bool:
        return self.next_batch < int(self.file.num_record_batches)

    def take(self, count: int) -> pa.Table:
        """Return the next rows, and go on behind them."""
        assert self.rows is not None
        taken, self.rows = self.rows.slice(0, count), self.rows.slice(count)
        self.times = self.times[count:]
        return taken


def find_runs(directory: Path) -> list[Path]:
    """Return the runs in a folder, in their order."""
    return sorted(directory.glob("run-*.arrow"))


def merge(runs: Sequence[Path]) -> Iterator[Mapping[Source, pa.Table]]:
    """Yield the rows of all runs in slices of time, the same slices every time; of equal times, earlier runs first.

    Within a slice, each source's rows are in order; rows of no time come in the last one. A slice has a batch of 8192
    rows of each run at most.
    """
    cursors = [_Cursor(_source_of(path), pa.ipc.open_file(pa.memory_map(str(path)))) for path in runs]
    while True:
        for cursor in cursors:
            cursor.fill()
        # What is unread of a run is not older than the last row in hand; of that age it comes before later runs.
        bounds = [(int(cursor.times[-1]), place) for place, cursor in enumerate(cursors) if cursor.unread]
        time, of = min(bounds, default=(_LAST, len(cursors)))
        parts: dict[Source, list[pa.Table]] = {}
        for place, cursor in enumerate(cursors):
            count = int(np.searchsorted(cursor.times, time, "right" if place <= of else "left"))
            if count:
                parts.setdefault(cursor.source, []).append(cursor.take(count))
        if not parts:
            return
        yield {source: _sorted(tables) for source, tables in parts.items()}


def _sorted(tables: Sequence[pa.Table]) -> pa.Table:
    rows = pa.concat_tables(tables)
    order = np.argsort(rows.column(_TIME).to_numpy(), kind="stable")
    return rows.take(pa.array(order)).drop_columns([_TIME])


def _source_of(path: Path) -> Source:
    return "behaviors" if path.stem.endswith("-behaviors") else "impressions"
