"""What the learner and the scorer share: which tables a model has, and how a batch is embedded with them."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batch import Batch, collate
from model.embedding.initial import Initial
from model.embedding.key_index import Keys
from model.embedding.table import EmbeddingTable
from model.example import Example
from model.kernels import batch_invariant
from model.network import Network
from model.spec import ModelSpec, fingerprint

Predictions = list[npt.NDArray[np.float32]]
"""For each example the (C,) click probabilities of its candidates."""


def table_dims(spec: ModelSpec) -> dict[str, int]:
    """Return the width of each embedding table by name; nothing for a model without embeddings."""
    return {"item": spec.item_dim, "category": spec.category_dim} if spec.embeds else {}


def table_initials(spec: ModelSpec, seed: int) -> dict[str, Initial | None]:
    """Return what each table's initial vectors come from; None for `popularity`, whose new keys all start at zero."""
    fixed = spec.kind == "popularity"
    return {
        name: None if fixed else Initial(2 * seed + number, spec.initial_std)
        for number, name in enumerate(table_dims(spec))
    }


def model_fingerprint(spec: ModelSpec, seed: int) -> str:
    """Return what must be equal for parameters to be exchanged: the network's fingerprint, and the seed.

    The seed counts because vectors that were never learned are computed from it on both sides.
    """
    return f"{fingerprint(spec)}-{seed}"


def batch_keys(batch: Batch) -> dict[str, Keys]:
    """Return for each table the keys of a batch, one-dimensional: all of the histories, then the targets."""
    pairs = {
        "item": (batch.history_items, batch.target_items),
        "category": (batch.history_categories, batch.target_categories),
    }
    return {
        name: torch.cat([history.flatten(), targets.flatten()]).cpu().numpy().view(np.uint64)
        for name, (history, targets) in pairs.items()
    }


def embedded(batch: Batch, vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return (B, L, d) embeddings of the histories and (B, C, d) of the targets, the tables side by side.

    Args:
        batch: whose keys were looked up.
        vectors: for each table (B·L + B·C, dim) vectors in the order of `batch_keys`; none without tables.
    """
    if not vectors:
        return None, None
    (B, L), C = batch.mask.shape, batch.target_mask.shape[1]
    halves = [torch.split(table, [B * L, B * C]) for table in vectors]
    history = torch.cat([history.view(B, L, -1) for history, _ in halves], dim=-1)
    targets = torch.cat([targets.view(B, C, -1) for _, targets in halves], dim=-1)
    return history, targets


def by_example(logits: Tensor, batch: Batch, examples: Sequence[Example]) -> Predictions:
    """Return the click probabilities that (B, C) logits mean, without the padding."""
    flat = batch_invariant.sigmoid(logits[batch.target_mask]).cpu().numpy()
    ends = accumulate((len(example.items) for example in examples), initial=0)
    return [flat[start:end] for start, end in pairwise(ends)]


@torch.inference_mode()
def predict(
    network: Network,
    tables: Mapping[str, EmbeddingTable],
    examples: Sequence[Example],
    *,
    device: torch.device,
) -> Predictions:
    """Return the (C,) float32 click probabilities of each example's candidates."""
    if not examples:
        return []
    batch = collate(examples, length=network.spec.length, numbers=network.spec.numbers, device=device)
    keys = batch_keys(batch)
    vectors = [table.gather(keys[name]) for name, table in tables.items()]
    return by_example(network(batch, *embedded(batch, vectors)), batch, examples)
