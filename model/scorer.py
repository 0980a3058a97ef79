"""Serves the parameters that a learner publishes: no optimiser, and parameters swapped whole or not at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.embedding.key_index import Keys
from model.embedding.table import EmbeddingTable, PreparedRows
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
        rows: the rows to set by table, when the update is a delta.
        gone: the keys by table that no longer have a row, when it is a delta that tells of some.
        tables: the whole new tables by name when the update is a base, which then are served as they are.
    """

    update: Update
    dense: dict[str, Tensor]
    rows: dict[str, PreparedRows]
    gone: dict[str, Keys]
    tables: dict[str, EmbeddingTable] | None


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
        rows = {f"{table}/{part}" for table in table_dims(self._spec) for part in ("keys", "values")}
        gone = {table: name for table in table_dims(self._spec) if (name := f"{table}/gone") in update.tensors}
        optional = gone.values() if update.kind == "delta" else ()
        if different := (update.tensors.keys() - set(optional)) ^ (shapes.keys() | rows):
            raise UpdateRefused("shape", f"tensors missing or unknown: {sorted(different)[:5]}")
        dense = {name: self._checked(update, name, shape) for name, shape in shapes.items()}
        moved: dict[str, tuple[Keys, Tensor]] = {}
        for table, dim in table_dims(self._spec).items():
            keys = check_keys(update, f"{table}/keys")
            moved[table] = keys, self._checked(update, f"{table}/values", (len(keys), dim))
        if update.kind == "delta":
            tables = self._tables
            self._try(update, dense, tables, moved)
            placed = {name: tables[name].prepare_rows(keys, vectors) for name, (keys, vectors) in moved.items()}
            return Prepared(update, dense, placed, {table: check_gone(update, table) for table in gone}, None)
        tables = self._new_tables()
        self._try(update, dense, tables, moved)
        for name, (keys, vectors) in moved.items():
            tables[name].assign(keys, vectors)
        return Prepared(update, dense, {}, {}, tables)

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
            rows = {name: self._prepared_rows(prepared, name) for name in prepared.rows}
            # All memory that is needed comes first: after that, nothing can fail half way.
            for name, placed in rows.items():
                self._tables[name].reserve(len(placed.fresh))
            for name, keys in prepared.gone.items():
                self._tables[name].remove(keys)
            for name, placed in rows.items():
                self._tables[name].write_rows(placed)
        for name, tensor in self._network.state_dict().items():
            tensor.copy_(prepared.dense[name])
        self.version = prepared.update.at

    def _try(
        self,
        update: Update,
        dense: dict[str, Tensor],
        tables: dict[str, EmbeddingTable],
        moved: dict[str, tuple[Keys, Tensor]],
    ) -> None:
        """Refuse parameters that give answers which are not finite."""
        try:
            finite = self._trial.finite(dense, tables, moved, self._last_request)
        except Exception as error:
            raise UpdateRefused("failed", f"{update.kind} {update.at} cannot be tried: {error!r}") from error
        if not finite:
            raise UpdateRefused("non-finite", f"{update.kind} {update.at} gives answers that are NaN or infinity")

    def _prepared_rows(self, prepared: Prepared, name: str) -> PreparedRows:
        """Return the rows to set, placed again when a base has brought another table, or a row has gone meanwhile."""
        if self._tables[name].still_prepared(prepared.rows[name]):
            return prepared.rows[name]
        tensors = prepared.update.tensors
        vectors = torch.tensor(tensors[f"{name}/values"], device=self._device)
        return self._tables[name].prepare_rows(tensors[f"{name}/keys"], vectors)

    def _new_tables(self) -> dict[str, EmbeddingTable]:
        initials = table_initials(self._spec, self._seed)
        return {
            name: EmbeddingTable(dim, initial=initials[name], device=self._device)
            for name, dim in table_dims(self._spec).items()
        }

    def _checked(self, update: Update, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = update.tensors[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            raise UpdateRefused("shape", f"{name} is {tensor.dtype} {tensor.shape}, not float32 {shape}")
        if why := unusable(tensor):
            raise UpdateRefused("non-finite", f"{name} holds {why}")
        return torch.tensor(tensor, device=self._device)
