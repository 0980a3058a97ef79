"""Tries new parameters before they are served: finite parameters can still give answers that are not finite."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batch import GAP_BUCKETS
from model.embedding.keys import Keys
from model.embedding.table import EmbeddingTable
from model.example import Example
from model.network import ACTION_ROWS, Network
from model.predict import batch_keys, embedded, model_batch
from model.spec import ModelSpec
from state.behavior import BEHAVIOR
from state.feature import LARGEST_NUMBER, Feature
from state.feature_layout import FeatureLayout
from state.records import Records, converted, missing

Moved = Mapping[str, tuple[Keys, Tensor]]
"""Table → (n,) keys and (n, dim) vectors of its new rows."""

_NOW_MS = 2**42
_LARGEST = 8
"""Rows of a table, those with the largest numbers, that are tried."""
_MOST_ASKED = 16
"""Candidates of the newest request that are tried."""
_UNKNOWN = 0xFFFF_FFFF
_EXTREME = 30.0


class Trial:
    """Scores a few requests with new parameters, on a network of its own.

    The requests have behaviours of every action and every age, the items and categories whose new rows have the largest
    numbers, features that are extreme, and the candidates of the newest request that was served. It touches nothing
    that serves, so it may run in another thread.

    Args:
        spec: the model.
        device: where it is tried.
    """

    def __init__(self, spec: ModelSpec, *, device: torch.device) -> None:
        self._spec = spec
        self._device = device
        self._network = Network(spec).to(device).requires_grad_(False).eval()

    @torch.inference_mode()
    def finite(
        self, dense: Mapping[str, Tensor], tables: Mapping[str, EmbeddingTable], moved: Moved, asked: Example | None
    ) -> bool:
        """Return whether all logits of the probe are finite.

        Args:
            dense: every parameter of the network by name.
            tables: where rows lie that did not move.
            moved: new rows, of every table.
            asked: the newest request that was served, if there was one.
        """
        for name, tensor in self._network.state_dict().items():
            tensor.copy_(dense[name])
        examples = self._probe(moved)
        if asked is not None:
            examples.append(_first(asked, _MOST_ASKED))
        batch = model_batch(self._spec, examples, self._device)
        keys = batch_keys(batch)
        vectors = {name: _gathered(keys[name], table, *moved[name]) for name, table in tables.items()}
        logits: Tensor = self._network(batch, embedded(batch, vectors))
        return bool(torch.isfinite(logits[batch.target_mask]).all())

    def _probe(self, moved: Moved) -> list[Example]:
        """Return examples of no more behaviours each than the model reads, which together have all of them."""
        items = np.append(_largest(moved, "item"), np.uint64(_UNKNOWN))
        categories = np.append(_largest(moved, "category"), np.uint64(_UNKNOWN)).astype(np.uint32)
        place = np.arange(max(ACTION_ROWS, GAP_BUCKETS))
        history = np.zeros(len(place), BEHAVIOR)
        history["item"] = np.resize(items, len(place))
        history["category"] = np.resize(np.append(categories, np.uint32(0)), len(place))
        history["action"] = place
        # The middle of each bucket of ages, the oldest first.
        history["ts"] = _NOW_MS - (1000 * (2 ** ((place[::-1] + 0.5) / 2) - 1)).astype(np.int64)
        candidates = items, np.resize(categories, len(items))
        step = min(self._spec.length, len(place)) or len(place)
        # Logarithms of counts and of their ratios: hardly any, as many, and very many.
        extremes = np.array([-_EXTREME, 0.0, _EXTREME], np.float32)
        numbers = np.resize(extremes, (len(items), self._spec.numbers))
        layout, keys = FeatureLayout.of(self._spec.features), _largest(moved, "feature")
        history = _extreme(converted(history, layout.behavior), self._spec.features, keys)
        attributes, contexts = (
            _extreme(missing(count, record), self._spec.features, keys)
            for count, record in ((len(items), layout.item), (len(place), layout.context))
        )
        return [
            Example(
                history[start : start + step],
                _NOW_MS,
                *candidates,
                numbers=numbers,
                context=contexts[start : start + 1],
                attributes=attributes,
            )
            for start in range(0, len(place), step)
        ]


def _extreme(records: Records, features: Sequence[Feature], keys: Keys) -> Records:
    """Return records with extreme numbers, and with the texts whose new rows have the largest numbers."""
    result = records.copy()
    for feature in features:
        if feature.name not in (result.dtype.names or ()):
            continue
        values = np.array([-LARGEST_NUMBER, 0.0, LARGEST_NUMBER])
        if feature.embeds:
            own = keys[keys >> np.uint64(32) == feature.table_prefix >> 32] & np.uint64(_UNKNOWN)
            values = np.append(own, np.uint64(_UNKNOWN)).astype(np.uint32)
        result[feature.name] = np.resize(values, result[feature.name].shape)
    return result


def _first(asked: Example, count: int) -> Example:
    """Return a request with its first candidates alone."""
    few = slice(count)
    return replace(
        asked,
        items=asked.items[few],
        categories=asked.categories[few],
        numbers=None if asked.numbers is None else asked.numbers[few],
        attributes=None if asked.attributes is None else asked.attributes[few],
    )


def _largest(moved: Moved, table: str) -> Keys:
    """Return the keys of the new rows with the largest numbers."""
    keys, vectors = moved.get(table, (np.zeros(0, np.uint64), torch.zeros(0, 1)))
    if not len(keys):
        return keys
    largest = vectors.abs().amax(1).topk(min(_LARGEST, len(keys))).indices.cpu().numpy()
    chosen: Keys = keys[largest]
    return chosen


def _gathered(keys: Keys, table: EmbeddingTable, moved: Keys, vectors: Tensor) -> Tensor:
    """Return (n, dim) vectors of (n,) keys: those that moved, else those of the table."""
    found = table.gather(keys)
    distinct, inverse = np.unique(keys, return_inverse=True)
    at = np.minimum(np.searchsorted(distinct, moved), len(distinct) - 1)
    hit = np.flatnonzero(distinct[at] == moved)
    row_of: npt.NDArray[np.int64] = np.full(len(distinct), -1)
    row_of[at[hit]] = hit
    rows = row_of[inverse]
    places = np.flatnonzero(rows >= 0)
    device = vectors.device
    found.index_copy_(0, torch.from_numpy(places).to(device), vectors[torch.from_numpy(rows[places]).to(device)])
    return found
