"""Serves the parameters that a learner publishes: no optimiser, and parameters swapped whole or not at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.embedding.keys import Keys
from model.embedding.served import PlacedRows, ServedTable
from model.errors import UpdateRefused
from model.example import Example
from model.interest.sar import SequenceAdaptation
from model.network import Network
from model.predict import (
    Predictions,
    attention_weights,
    model_fingerprint,
    predict,
    table_dims,
    table_initials,
)
from model.serialization.update import Update, Version, check_gone, check_keys, check_turn, unusable
from model.spec import ModelSpec
from model.trial import Trial


@dataclass(frozen=True, slots=True)
class Prepared:
    """An update whose content passed every check, ready to be swapped in.

    Attributes:
        update: where it came from.
        dense: every parameter of the network by name.
        rows: the rows to set by table, and the keys that no longer have one, when the update is a delta.
        tables: the whole new tables by name when the update is a base, which then are served as they are.
    """

    update: Update
    dense: dict[str, Tensor]
    rows: dict[str, PlacedRows]
    tables: dict[str, ServedTable] | None


class _Ahead(NamedTuple):
    """What is served once all that was prepared is committed."""

    version: Version
    tables: dict[str, ServedTable]


class Scorer:
    """Scores with the parameters it was last given; before the first update, with the initial ones of `seed`.

    Order of updates: a base applies when it is newer than what is served; a delta when it is the next one of
    the same epoch. Not thread-safe, except `prepare`, which may run in another thread than scoring and commits.
    """

    def __init__(self, spec: ModelSpec, *, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.version = Version()
        self.fingerprint = model_fingerprint(spec, seed)
        self._spec = spec
        self._seed = seed
        self._device = torch.device(device)
        self._network = Network(spec, seed=seed).to(self._device).requires_grad_(False).eval()
        self._tables = self._new_tables()
        self._ahead = _Ahead(self.version, self._tables)
        self._trial = Trial(spec, device=self._device)
        self._last_request: Example | None = None

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each table."""
        return {name: len(table) for name, table in self._tables.items()}

    @property
    def chosen_lengths(self) -> Mapping[int, int]:
        """Length → how many requests a policy gave it, since the start; empty for a model without such a policy."""
        interest = self._network.interest
        return interest.chosen if isinstance(interest, SequenceAdaptation) else {}

    def score(self, examples: Sequence[Example]) -> Predictions:
        """Return the (C,) float32 click probabilities of each example's candidates."""
        if examples:
            self._last_request = examples[-1]
        return predict(self._network, self._tables, examples, device=self._device)

    def attention_weights(self, example: Example) -> npt.NDArray[np.float32] | None:
        """Return the (C, n) weights in [0, 1] with which candidates read the newest n behaviours, oldest first.

        None for a model that has none, or does not tell them.
        """
        return attention_weights(self._network, self._tables, example, device=self._device)

    def apply(self, update: Update) -> None:
        """Check an update and swap it in.

        Raises:
            UpdateRefused: see `prepare` and `commit`; nothing has changed then.
        """
        check_turn(update, self.version)
        self.commit(self.prepare(update))

    def prepare(self, update: Update) -> Prepared:
        """Check everything about an update but its turn, and do the work that need not wait for it.

        May run in another thread than the one that scores.

        Raises:
            UpdateRefused: "fingerprint", "shape", "non-finite" (of the parameters, or of answers that they give), or
                "failed" when nothing could be answered with them.
        """
        if update.fingerprint != self.fingerprint:
            raise UpdateRefused(
                "fingerprint",
                f"of model {update.fingerprint}, not of {self.fingerprint}: worker and trainer need the same preset,"
                " model and features of this arm, and the same seed",
            )
        shapes = {name: tuple(tensor.shape) for name, tensor in self._network.state_dict().items()}
        needed = {f"{table}/{part}" for table in table_dims(self._spec) for part in ("keys", "values")}
        gone = {table: name for table in table_dims(self._spec) if (name := f"{table}/gone") in update.tensors}
        optional = gone.values() if update.kind == "delta" else ()
        if different := (update.tensors.keys() - set(optional)) ^ (shapes.keys() | needed):
            raise UpdateRefused("shape", f"tensors missing or unknown: {sorted(different)[:5]}")
        dense = {name: self._checked(update, name, shape) for name, shape in shapes.items()}
        moved: dict[str, tuple[Keys, Tensor]] = {}
        for table, dim in table_dims(self._spec).items():
            keys = check_keys(update, f"{table}/keys")
            moved[table] = keys, self._checked(update, f"{table}/values", (len(keys), dim))
        if update.kind == "delta":
            version, tables = self._ahead
            self._try(update, dense, tables, moved)
            none = np.zeros(0, np.uint64)
            leaving = {name: check_gone(update, name) if name in gone else none for name in moved}
            rows = {name: tables[name].place(*of_table, leaving[name]) for name, of_table in moved.items()}
            if update.at == Version(version.epoch, version.version + 1):
                self._ahead = _Ahead(update.at, tables)
            return Prepared(update, dense, rows, None)
        tables = self._new_tables()
        self._try(update, dense, tables, moved)
        for name, (keys, vectors) in moved.items():
            tables[name].assign(keys, vectors)
        if update.at > self._ahead.version:
            self._ahead = _Ahead(update.at, tables)
        return Prepared(update, dense, {}, tables)

    @torch.no_grad()
    def commit(self, prepared: Prepared) -> None:
        """Serve the prepared parameters from now on.

        Raises:
            UpdateRefused: "stale" when what is served is as new, "gap" when an update between is missing.
        """
        check_turn(prepared.update, self.version)
        if prepared.tables is not None:
            self._tables = prepared.tables
        else:
            # All memory that is needed is there: nothing can fail half way.
            for placed in [self._placed(prepared, name) for name in prepared.rows]:
                placed.table.write(placed)
        for name, tensor in self._network.state_dict().items():
            tensor.copy_(prepared.dense[name])
        self.version = prepared.update.at

    def _try(
        self,
        update: Update,
        dense: dict[str, Tensor],
        tables: dict[str, ServedTable],
        moved: dict[str, tuple[Keys, Tensor]],
    ) -> None:
        """Refuse parameters that give answers which are not finite."""
        try:
            finite = self._trial.finite(dense, tables, moved, self._last_request)
        except Exception as error:
            raise UpdateRefused("failed", f"{update.kind} {update.at} cannot be tried: {error!r}") from error
        if not finite:
            raise UpdateRefused("non-finite", f"{update.kind} {update.at} gives answers that are NaN or infinity")

    def _placed(self, prepared: Prepared, name: str) -> PlacedRows:
        """Return the rows to set, placed again where not all that was prepared before was committed."""
        table, placed = self._tables[name], prepared.rows[name]
        if table.may_write(placed):
            return placed
        self._ahead = _Ahead(prepared.update.at, self._tables)
        tensors = prepared.update.tensors
        vectors = torch.tensor(tensors[f"{name}/values"], device=self._device)
        gone = tensors.get(f"{name}/gone", np.zeros(0, np.uint64))
        return table.place(tensors[f"{name}/keys"], vectors, gone)

    def _new_tables(self) -> dict[str, ServedTable]:
        initials = table_initials(self._spec, self._seed)
        return {
            name: ServedTable(dim, initial=initials[name], device=self._device)
            for name, dim in table_dims(self._spec).items()
        }

    def _checked(self, update: Update, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = update.tensors[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            raise UpdateRefused("shape", f"{name} is {tensor.dtype} {tensor.shape}, not float32 {shape}")
        if why := unusable(tensor):
            raise UpdateRefused("non-finite", f"{name} holds {why}")
        return torch.tensor(tensor, device=self._device)
