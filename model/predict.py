"""What the learner and the scorer share: which tables a model has, and how a batch is embedded with them."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batch import Batch, collate
from model.embedding.initial import Initial
from model.embedding.keys import Keys
from model.embedding.learned import Leaf
from model.embedding.table import EmbeddingTable
from model.example import Example
from model.features.encoder import FEATURE_DIM
from model.kernels import batch_invariant
from model.kernels.behaviour_keys import Rows
from model.network import Embedded, Network
from model.spec import ModelSpec, fingerprint

_OWN = "item", "category"
_FURTHER = "item_attention", "category_attention"
"""Tables of item and category: all kinds' own, and those for `Options.attention_dims`."""

Predictions = list[npt.NDArray[np.float32]]
"""For each example the (C,) click probabilities of its candidates."""


def model_batch(spec: ModelSpec, examples: Sequence[Example], device: torch.device | str) -> Batch:
    """Return examples as the batch that a model of `spec` reads."""
    return collate(examples, length=spec.length, numbers=spec.numbers, features=spec.features, device=device)


def table_dims(spec: ModelSpec) -> dict[str, int]:
    """Return the width of each embedding table by name; nothing for a model without embeddings."""
    own = {"item": spec.item_dim, "category": spec.category_dim} if spec.embeds else {}
    of_features = {"feature": FEATURE_DIM} if spec.embeds_features else {}
    further = (
        dict(zip(_FURTHER, spec.interest.attention_dims, strict=True)) if any(spec.interest.attention_dims) else {}
    )
    return own | of_features | further


def table_initials(spec: ModelSpec, seed: int) -> dict[str, Initial | None]:
    """Return what each table's initial vectors come from; None for `popularity`, whose new keys all start at zero."""
    fixed = spec.kind == "popularity"
    numbers = {name: number for number, name in enumerate((*_OWN, "feature", *_FURTHER))}
    return {name: None if fixed else Initial(2 * seed + numbers[name], spec.initial_std) for name in table_dims(spec)}


def model_fingerprint(spec: ModelSpec, seed: int) -> str:
    """Return what must be equal for parameters to be exchanged: the network's fingerprint, and the seed.

    The seed counts because vectors that were never learned are computed from it on both sides.
    """
    return f"{fingerprint(spec)}-{seed}"


def batch_keys(batch: Batch) -> dict[str, Keys]:
    """Return for each table the keys of a batch, one-dimensional: all of the histories, then the targets."""
    keys = {
        "item": _one_dimensional(batch.history_items, batch.target_items),
        "category": _one_dimensional(batch.history_categories, batch.target_categories),
    }
    if batch.features is not None:
        keys["feature"] = _one_dimensional(batch.features.past_keys, batch.features.shown_keys)
    return keys | dict(zip(_FURTHER, (keys[name] for name in _OWN), strict=True))


def _one_dimensional(history: Tensor, targets: Tensor) -> Keys:
    return torch.cat([history.flatten(), targets.flatten()]).cpu().numpy().view(np.uint64)


def embedded(batch: Batch, vectors: Mapping[str, Tensor]) -> Embedded:
    """Return what was looked up for a batch, all tables of item and category side by side.

    Args:
        batch: whose keys were looked up.
        vectors: for each table (n, dim) vectors in the order of `batch_keys`.
    """
    (B, L), C = batch.mask.shape, batch.target_mask.shape[1]
    halves = [torch.split(vectors[name], [B * L, B * C]) for name in (*_OWN, *_FURTHER) if name in vectors]
    history = torch.cat([history.view(B, L, -1) for history, _ in halves], dim=-1) if halves else None
    targets = torch.cat([targets.view(B, C, -1) for _, targets in halves], dim=-1) if halves else None
    return Embedded(history, targets, *_embedded_features(batch, vectors.get("feature")))


def embedded_to_learn(batch: Batch, taken: Mapping[str, Leaf]) -> Embedded:
    """Return the same of leaves: behaviours are looked up when it is known what else is added to their keys.

    Args:
        batch: whose keys were taken.
        taken: for each table, in the order of `batch_keys`.
    """
    behaviours, C = batch.mask.numel(), batch.target_mask.shape[1]
    own = [taken[name] for name in (*_OWN, *_FURTHER) if name in taken]
    history = tuple(Rows(each.vectors, each.positions[:behaviours]) for each in own)
    targets = [
        Rows(each.vectors, each.positions[behaviours:]).looked_up().view(-1, C, each.vectors.shape[1]) for each in own
    ]
    of_features = taken["feature"].embed() if "feature" in taken else None
    return Embedded(
        history or None, torch.cat(targets, dim=-1) if targets else None, *_embedded_features(batch, of_features)
    )


def _embedded_features(batch: Batch, vectors: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the embeddings of texts among the features, of behaviours and of candidates."""
    if batch.features is None or vectors is None:
        return None, None
    shapes = batch.features.past_keys.shape, batch.features.shown_keys.shape
    past, shown = torch.split(vectors, [shape.numel() for shape in shapes])
    return past.view(*shapes[0], FEATURE_DIM), shown.view(*shapes[1], FEATURE_DIM)


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
    batch = model_batch(network.spec, examples, device)
    return by_example(network(batch, _looked_up(batch, tables)), batch, examples)


@torch.inference_mode()
def attention_weights(
    network: Network, tables: Mapping[str, EmbeddingTable], example: Example, *, device: torch.device
) -> npt.NDArray[np.float32] | None:
    """Return the (C, n) weights with which an example's candidates read its newest n behaviours, oldest first.

    None for a model that has no weights, or does not tell them (`InterestModel.attention_weights`).
    """
    batch = model_batch(network.spec, [example], device)
    weights = network.attention_weights(batch, _looked_up(batch, tables))
    if weights is None:
        return None
    read: npt.NDArray[np.float32] = weights[0, :, batch.mask[0]].cpu().numpy()
    return read


def _looked_up(batch: Batch, tables: Mapping[str, EmbeddingTable]) -> Embedded:
    keys = batch_keys(batch)
    return embedded(batch, {name: table.gather(keys[name]) for name, table in tables.items()})
