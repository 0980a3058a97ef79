"""A network as other servers call it: tensors of one user and C candidates by name, (C,) click probabilities back.

Tables of embeddings stay outside: they are looked up by whoever calls, so that a module needs no hash index, and rows
can be renewed without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.batch import GAP_BUCKETS, Batch, gap_bucket
from model.features.encoder import FEATURE_DIM
from model.features.gather import FeatureBatch, columns_of, width
from model.network import Embedded, Network
from model.predict import table_dims
from model.spec import ModelSpec

Inputs = Mapping[str, Tensor]
"""Name → tensor; see `inputs_of`."""


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor that a module takes.

    Attributes:
        name: of the tensor.
        dtype: "int64", "bool" or "float32".
        shape: "L" behaviours or "C" candidates first, then fixed sizes.
        meaning: what it holds.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    meaning: str


def inputs_of(spec: ModelSpec) -> list[Input]:
    """Return what a module of this model takes, in this order."""
    found = [
        Input("history_items", "int64", ("L",), "item keys of the behaviours, oldest first; bits of the unsigned keys"),
        Input("history_categories", "int64", ("L",), "their category keys, 0 for none"),
        Input("history_actions", "int64", ("L",), "their action keys, 0 for none"),
        Input("history_ages_ms", "int64", ("L",), "time of the request less theirs, milliseconds"),
        Input("history_mask", "bool", ("L",), "true for a behaviour; padding comes last, and is zero everywhere"),
        Input("target_items", "int64", ("C",), "item keys of the candidates"),
        Input("target_categories", "int64", ("C",), "their category keys, 0 for none"),
    ]
    tables = [name for name in table_dims(spec) if name != "feature"]
    if tables:
        wide = sum(table_dims(spec)[name] for name in tables)
        side_by_side = f"rows of the tables {', '.join(tables)} side by side; of key 0, zeros"
        found.append(Input("history_vectors", "float32", ("L", wide), f"of the behaviours, {side_by_side}"))
        found.append(Input("target_vectors", "float32", ("C", wide), f"of the candidates, {side_by_side}"))
    if spec.numbers:
        found.append(Input("target_statistics", "float32", ("C", spec.numbers), "see `statistics`"))
    if spec.features:
        read = columns_of(spec.features)
        for side, of, numbers, keys in (
            ("target", "C", read.shown_numbers, read.shown_keys),
            ("history", "L", read.past_numbers, read.past_keys),
        ):
            found.append(Input(f"{side}_numbers", "float32", (of, width(numbers)), "see `features`; NaN where missing"))
            found.append(Input(f"{side}_texts", "int64", (of, width(keys)), "see `features`; 0 where missing"))
            if spec.embeds_features:
                shape = of, width(keys), FEATURE_DIM
                rows = f"rows of the table feature of {side}_texts; of key 0, zeros"
                found.append(Input(f"{side}_text_vectors", "float32", shape, rows))
    return found


class ScoringModule(nn.Module):
    """Click probabilities of one user's candidates.

    Args:
        network: with the parameters that serve.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("age_limits", _age_limits())
        self.age_limits: Tensor

    def forward(self, inputs: Inputs) -> Tensor:
        """Return (C,) float32 probabilities."""
        return torch.sigmoid(self.network(self._batch(inputs), _embedded(inputs))).squeeze(0)

    def _batch(self, inputs: Inputs) -> Batch:
        targets, spec = inputs["target_items"], self.network.spec
        features = None
        if spec.features:
            names = ("target_numbers", "target_texts", "history_numbers", "history_texts")
            features = FeatureBatch(*(inputs[name].unsqueeze(0) for name in names))
        nothing = inputs.get("history_vectors", self.age_limits)
        return Batch(
            history_items=inputs["history_items"].unsqueeze(0),
            history_categories=inputs["history_categories"].unsqueeze(0),
            history_actions=inputs["history_actions"].unsqueeze(0),
            gap_buckets=(inputs["history_ages_ms"].unsqueeze(1) >= self.age_limits).sum(dim=1).unsqueeze(0),
            mask=inputs["history_mask"].unsqueeze(0),
            target_items=targets.unsqueeze(0),
            target_categories=inputs["target_categories"].unsqueeze(0),
            target_mask=torch.ones_like(targets, dtype=torch.bool).unsqueeze(0),
            labels=None,
            ts=nothing.new_zeros(1, dtype=torch.int64),
            numbers=inputs["target_statistics"].unsqueeze(0) if spec.numbers else nothing.new_zeros(1),
            features=features,
        )


def _embedded(inputs: Inputs) -> Embedded:
    names = ("history_vectors", "target_vectors", "history_text_vectors", "target_text_vectors")
    return Embedded(*(inputs[name].unsqueeze(0) if name in inputs else None for name in names))


def _age_limits() -> Tensor:
    """Return, for each bucket of ages from the second on, the least age (ms) in it: comparing is exact everywhere."""
    wanted = np.arange(1, GAP_BUCKETS)
    low, high = np.zeros(len(wanted), np.int64), np.full(len(wanted), 2**48, np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        there = gap_bucket(middle) >= wanted
        low, high = np.where(there, low, middle + 1), np.where(there, middle, high)
    return torch.from_numpy(low)
