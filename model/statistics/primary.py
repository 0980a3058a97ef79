"""The counts of the stream where they are folded, and how they are published: as an arm's parameters are."""

from collections.abc import Sequence

import msgspec
import numpy as np
from xxhash import xxh3_64_hexdigest

from model.errors import CheckpointError
from model.serialization.update import Tensors, Update, Version
from model.statistics.decayed_counts import CountRows
from model.statistics.item_statistics import ItemStatistics
from state.behavior import BehaviorArray

STATISTICS = "_statistics"
"""Stands for an arm's name in updates and checkpoints; no arm may be called so."""
_FORMAT = 1


def statistics_fingerprint(half_lives_s: Sequence[float]) -> str:
    """Return what must be equal for counts to be exchanged."""
    return f"statistics-{xxh3_64_hexdigest(msgspec.json.encode((_FORMAT, *half_lives_s)))}"


class StatisticsPrimary:
    """Folds behaviours, and publishes the counts that have changed.

    Args:
        half_lives_s: as in `ModelSpec.statistics`.
        max_rows: items, and categories, that are counted.
        retention_s: seconds without an event after which a key is dropped, by the time of the newest event.

    Attributes:
        version: epoch, and number of deltas in it.
        changed: whether anything was counted since the last delta.
    """

    def __init__(self, half_lives_s: Sequence[float], *, max_rows: int, retention_s: float) -> None:
        self.fingerprint = statistics_fingerprint(half_lives_s)
        self.version = Version()
        self.changed = False
        self._statistics = ItemStatistics(half_lives_s, max_rows=max_rows)
        self._keep_ms = round(retention_s * 1000)
        self._newest = 0

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each table."""
        return {name: len(table) for name, table in self._statistics.tables.items()}

    def fold(self, behaviors: BehaviorArray) -> None:
        """Count behaviours, of any users and in any order."""
        if len(behaviors):
            self._statistics.fold(behaviors)
            self._newest = max(self._newest, int(behaviors["ts"].max()))
            self.changed = True

    def begin_epoch(self, epoch: int) -> None:
        """Start a new epoch after a restart, at version 0. A base must be published before any delta."""
        self.version = Version(epoch, 0)
        self._clear_touched()

    def delta(self, arm: str) -> Update:
        """Return the rows that have changed since the last delta, as the next version."""
        self.version = Version(self.version.epoch, self.version.version + 1)
        tensors: dict[str, np.ndarray] = {}
        for name, table in self._statistics.tables.items():
            tensors |= _tensors(name, table.touched())
        self._clear_touched()
        return Update(arm, "delta", *self.version, self.fingerprint, tensors)

    def base(self, arm: str) -> Update:
        """Return all rows as they are now, under the version of the last delta; drops what has expired before."""
        tensors: dict[str, np.ndarray] = {}
        for name, table in self._statistics.tables.items():
            table.expire(self._newest - self._keep_ms)
            tensors |= _tensors(name, table.all_rows())
        return Update(arm, "base", *self.version, self.fingerprint, tensors)

    def state(self) -> Tensors:
        """Return all that `load_state` needs to go on counting, as arrays by name."""
        state: dict[str, np.ndarray] = {
            "fingerprint": np.frombuffer(self.fingerprint.encode(), np.uint8),
            "newest": np.array([self._newest]),
        }
        for name, table in self._statistics.tables.items():
            rows = table.all_rows()
            state |= {f"{name}/keys": rows.keys.copy(), f"{name}/times": rows.times, f"{name}/sums": rows.sums}
        return state

    def load_state(self, state: Tensors) -> None:
        """Take over what was counted before; this one must not have counted anything.

        Raises:
            CheckpointError: when it was counted with other half-lives, or is incomplete.
        """
        try:
            if (found := state["fingerprint"].tobytes().decode()) != self.fingerprint:
                raise CheckpointError(f"its counts are {found}, and the arms read {self.fingerprint}")
            for name, table in self._statistics.tables.items():
                table.assign(CountRows(state[f"{name}/keys"], state[f"{name}/times"], state[f"{name}/sums"]))
            self._newest = int(state["newest"].item())
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(f"not the whole state of such statistics: {error!r}") from None

    def _clear_touched(self) -> None:
        for table in self._statistics.tables.values():
            table.clear_touched()
        self.changed = False


def _tensors(table: str, rows: CountRows) -> dict[str, np.ndarray]:
    """Return rows as they travel: sums as ln(1 + sum), so that float32 holds the small and the large ones."""
    return {
        f"{table}/keys": rows.keys.copy(),
        f"{table}/times": rows.times,
        f"{table}/values": np.log1p(rows.sums[:, 0]).astype(np.float32),
    }
