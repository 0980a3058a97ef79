"""Writes an export: a folder with the model, its tables and statistics, and a description for other servers."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch

from model.errors import ExportError
from model.export.description import describe
from model.export.graph import check, write_onnx, write_torch_export
from model.export.kinds import fixed_length
from model.export.module import ScoringModule
from model.network import Network
from model.predict import table_dims
from model.serialization.update import Tensors, Update
from model.spec import ModelSpec

Format = Literal["safetensors", "torch.export", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILES: Mapping[Format, str] = {"safetensors": "model.safetensors", "torch.export": "model.pt2", "onnx": "model.onnx"}
TABLES = "tables.safetensors"
DESCRIPTION = "export.json"
_STATISTICS = ("item", "category")


@dataclass(frozen=True, slots=True)
class Counted:
    """Statistics that a model reads.

    Attributes:
        state: `StatisticsPrimary.state`.
        length: behaviours of a user of which they tell the share.
    """

    state: Tensors
    length: int


def export(
    update: Update, spec: ModelSpec, seed: int, directory: Path, format_: Format, counted: Counted | None = None
) -> dict[str, Any]:
    """Write a model for other servers into a new folder; it is there whole or not at all.

    Args:
        update: a base: all parameters of the model as it serves.
        spec: the model.
        seed: of its initial vectors.
        directory: the folder; it must not exist, or be empty.
        format_: of the model.
        counted: of a model that reads statistics; None where nothing was counted.

    Returns:
        What `export.json` says.

    Raises:
        ExportError: when the folder is in use or cannot be written, the kind cannot be exported in this format, or what
            was written gives other probabilities than the scorer.
    """
    length = None if format_ == "safetensors" else fixed_length(spec)
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise ExportError(f"{directory} is there already: name a new folder")
    half = directory.with_name(f"{directory.name}.half")
    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        of_statistics = counted.length if counted else spec.length
        said = describe(spec, seed, update, format_=format_, length=length, statistics_length=of_statistics)
        said |= _write_model(update, spec, seed, half, format_)
        tables = _tables(update, spec) | (_counts(counted.state) if counted and spec.numbers else {})
        (half / TABLES).write_bytes(safetensors.numpy.save(tables))
        said["files"] = {"model": FILES[format_], "tables": TABLES}
        said["tensors"] = {name: [str(each.dtype), list(each.shape)] for name, each in tables.items()}
        (half / DESCRIPTION).write_text(json.dumps(said, indent=1))
        if directory.is_dir():
            directory.rmdir()
        half.rename(directory)
    except OSError as error:
        raise ExportError(f"cannot write {directory}: {error}") from None
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return said


def _write_model(update: Update, spec: ModelSpec, seed: int, directory: Path, format_: Format) -> dict[str, Any]:
    """Write the model's file; returns how far it was tried."""
    path = directory / FILES[format_]
    network = Network(spec, seed=seed).requires_grad_(False).eval()
    dense = {name: torch.tensor(update.tensors[name]) for name in network.state_dict()}
    if format_ == "safetensors":
        path.write_bytes(safetensors.numpy.save({name: each.numpy() for name, each in dense.items()}))
        return {"largest_difference": None}
    network.load_state_dict(dense)
    module = ScoringModule(network).eval()
    run = write_torch_export(module, path) if format_ == "torch.export" else write_onnx(module, path)
    return {"largest_difference": None if run is None else check(module, run)}


def _tables(update: Update, spec: ModelSpec) -> dict[str, npt.NDArray[Any]]:
    """Return keys, ascending, and vectors of each table."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name in table_dims(spec):
        keys = np.asarray(update.tensors[f"{name}/keys"])
        order = np.argsort(keys)
        found[f"{name}/keys"] = keys[order]
        found[f"{name}/values"] = np.asarray(update.tensors[f"{name}/values"])[order]
    return found


def _counts(statistics: Tensors) -> dict[str, npt.NDArray[Any]]:
    """Return the decayed counts by name; keys ascending."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name in _STATISTICS:
        order = np.argsort(statistics[f"{name}/keys"])
        for part in ("keys", "times", "sums"):
            found[f"statistics.{name}/{part}"] = np.ascontiguousarray(statistics[f"{name}/{part}"][order])
    return found
