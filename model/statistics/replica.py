"""The counts of the stream where candidates are scored: as the primary publishes them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.errors import UpdateRefused
from model.example import Example
from model.serialization.update import Update, Version, check_keys, check_turn
from model.statistics.decayed_counts import CountRows
from model.statistics.item_statistics import ItemStatistics
from model.statistics.primary import statistics_fingerprint

_MOST = 64.0
"""ln(1 + count) of more events than there can be."""
_LATEST_MS = 2**48


@dataclass(frozen=True, slots=True)
class PreparedCounts:
    """An update of the counts that passed every check: table → rows, and the whole new counts for a base."""

    update: Update
    rows: dict[str, CountRows]
    statistics: ItemStatistics | None


class StatisticsReplica:
    """Counts as of the last update; before the first one, nothing is counted.

    `prepare` may run in another thread than all else.

    Args:
        half_lives_s: as in `ModelSpec.statistics`.
        length: as of `ItemStatistics`.
    """

    def __init__(self, half_lives_s: Sequence[float], *, length: int) -> None:
        self.version = Version()
        self.fingerprint = statistics_fingerprint(half_lives_s)
        self._half_lives_s = tuple(half_lives_s)
        self._length = length
        self._statistics = self._empty()

    def with_numbers(self, example: Example) -> Example:
        """Return an example with the (C, n) numbers of its candidates."""
        numbers = self._statistics.features(example.sequence, example.ts, example.items, example.categories)
        return replace(example, numbers=numbers)

    def prepare(self, update: Update) -> PreparedCounts:
        """Check everything about an update but its turn.

        Raises:
            UpdateRefused: "fingerprint", "shape" or "non-finite".
        """
        if update.fingerprint != self.fingerprint:
            raise UpdateRefused(
                "fingerprint",
                f"of {update.fingerprint}, not of {self.fingerprint}: give workers and trainer one model.statistics",
            )
        tables = self._statistics.tables
        if different := update.tensors.keys() ^ {f"{t}/{part}" for t in tables for part in ("keys", "times", "values")}:
            raise UpdateRefused("shape", f"tensors missing or unknown: {sorted(different)[:5]}")
        rows = {table: self._checked(update, table) for table in tables}
        if update.kind == "delta":
            return PreparedCounts(update, rows, None)
        counted = self._empty()
        for name, table in counted.tables.items():
            table.assign(rows[name])
        return PreparedCounts(update, {}, counted)

    def commit(self, prepared: PreparedCounts) -> None:
        """Serve the prepared counts from now on.

        Raises:
            UpdateRefused: "stale" when what is served is as new, "gap" when an update between is missing.
        """
        check_turn(prepared.update, self.version)
        if prepared.statistics is not None:
            self._statistics = prepared.statistics
        for name, rows in prepared.rows.items():
            self._statistics.tables[name].assign(rows)
        self.version = prepared.update.at

    def _empty(self) -> ItemStatistics:
        return ItemStatistics(self._half_lives_s, length=self._length)

    def _checked(self, update: Update, table: str) -> CountRows:
        keys = check_keys(update, f"{table}/keys")
        times, values = (update.tensors[f"{table}/{part}"] for part in ("times", "values"))
        shape = (len(keys), len(self._half_lives_s) + 1)
        if times.dtype != np.int64 or times.shape != keys.shape or values.dtype != np.float32 or values.shape != shape:
            raise UpdateRefused(
                "shape", f"{table}: times {times.dtype} {times.shape} and counts {values.dtype} {values.shape}"
            )
        if not ((values >= 0) & (values <= _MOST)).all() or not ((times >= 0) & (times <= _LATEST_MS)).all():
            raise UpdateRefused("non-finite", f"{table}: a count or a time is out of range")
        return CountRows(keys, times, np.expm1(values.astype(np.float64))[:, None])
