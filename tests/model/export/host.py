"""A server of its own: scores with what an export's files say, and nothing of samstream but its events' bytes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
from torch import Tensor

from model.example import Example

_ALL = 2**64 - 1


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _ALL
    return x ^ x >> 31


class Host:
    """What is loaded of an export."""

    def __init__(self, directory: Path) -> None:
        self.said: dict[str, Any] = json.loads((directory / "export.json").read_text())
        self.tables = safetensors.numpy.load((directory / self.said["files"]["tables"]).read_bytes())
        self.names = [each["name"] for each in self.said["inputs"]]

    def row(self, table: str, key: int) -> npt.NDArray[np.float32]:
        """Return a key's row, or its initial vector."""
        keys, values = self.tables[f"{table}/keys"], self.tables[f"{table}/values"]
        place = int(np.searchsorted(keys, np.uint64(key)))
        if key and place < len(keys) and keys[place] == key:
            return np.asarray(values[place])
        return np.array(self.initial(table, key), np.float32)

    def initial(self, table: str, key: int) -> list[float]:
        about = self.said["rows"]["tables"][table]
        if not key or about["initial"] is None:
            return [0.0] * about["dim"]
        start = mix(key ^ mix(about["initial"]["seed"] & _ALL))
        words = [mix(start + (i + 1) * 0x9E3779B97F4A7C15 & _ALL) for i in range(about["dim"])]
        sums = [sum(word >> 16 * lane & 0xFFFF for lane in range(4)) for word in words]
        scale = about["initial"]["std"] / math.sqrt((2**32 - 1) / 3)
        return [(total - 131070) * scale for total in sums]

    def vectors(self, items: list[int], categories: list[int]) -> npt.NDArray[np.float32]:
        """Return the rows of all tables side by side; what is of a category says so in its name."""
        tables = [name for name in self.said["rows"]["tables"] if name != "feature"]
        rows = [
            np.concatenate([self.row(name, category if "category" in name else item) for name in tables])
            for item, category in zip(items, categories, strict=True)
        ]
        return np.array(rows, np.float32)

    def inputs(self, example: Example) -> dict[str, Tensor]:
        """Return the tensors of a request of a model without features."""
        about = self.said["L"]
        sequence = example.sequence[max(len(example.sequence) - about["most"], 0) :]
        n = len(sequence)
        L = about["exactly"] or max(n, 1)

        def padded(values: npt.NDArray[Any]) -> Tensor:
            whole = np.zeros((L, *values.shape[1:]), values.dtype)
            whole[:n] = values
            return torch.from_numpy(whole)

        items, categories = sequence["item"].tolist(), sequence["category"].tolist()
        found = {
            "history_items": padded(sequence["item"].astype(np.uint64).view(np.int64)),
            "history_categories": padded(sequence["category"].astype(np.int64)),
            "history_actions": padded(sequence["action"].astype(np.int64)),
            "history_ages_ms": padded(example.ts - sequence["ts"].astype(np.int64)),
            "history_mask": padded(np.ones(n, np.bool_)),
            "target_items": torch.from_numpy(example.items.view(np.int64)),
            "target_categories": torch.from_numpy(example.categories.astype(np.int64)),
        }
        if "history_vectors" in self.names:
            wide = next(each["shape"][1] for each in self.said["inputs"] if each["name"] == "history_vectors")
            found["history_vectors"] = padded(self.vectors(items, categories).reshape(n, wide))
            targets = self.vectors(example.items.tolist(), example.categories.tolist())
            found["target_vectors"] = torch.from_numpy(targets)
        if "target_statistics" in self.names:
            assert example.numbers is not None
            found["target_statistics"] = torch.from_numpy(example.numbers)
        assert list(found) == self.names
        return found
