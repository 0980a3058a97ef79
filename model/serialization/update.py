"""Parameter updates from a learner to the scorers, and their encoding.

The bytes are a safetensors file whose metadata says whose parameters they are. What does not decode is
refused with `UpdateRefused`, whatever the bytes; nothing is allocated for sizes that are merely claimed.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from msgspec import Meta, Struct
from safetensors import SafetensorError

from model.embedding.shards import ONLY, Rank
from model.errors import UpdateRefused

Tensors = Mapping[str, npt.NDArray[Any]]

MAX_BYTES = 2**30
"""The largest encoded update that is decoded, unless told otherwise: 1 GiB, or some 14 million rows of 16."""

Number = Annotated[int, Meta(ge=0, le=2**62)]


MAX_MAGNITUDE = 1e6
"""Largest absolute value of a parameter: training does not reach it, and squares of a few such products overflow."""


def unusable(tensor: npt.NDArray[Any]) -> str:
    """Return what makes a tensor of parameters unusable; empty when nothing does."""
    if tensor.dtype.kind != "f" or (np.abs(tensor) <= MAX_MAGNITUDE).all():
        return ""
    return f"numbers beyond {MAX_MAGNITUDE:g}" if np.isfinite(tensor).all() else "NaN or infinity"


class Version(NamedTuple):
    """A state of an arm's parameters. A restarted trainer raises the epoch; versions count the deltas of an epoch."""

    epoch: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """A base (all parameters) or a delta (the dense ones, and embedding rows that moved since the last one).

    Values are absolute, not differences. A base carries the version of the newest delta; the next delta
    continues it. Keys whose rows went since the last delta, and that have none now, are tombstones in the next one.

    Attributes:
        arm: whose parameters.
        kind: "base" or "delta".
        epoch: raised at every restart of the trainer.
        version: number of deltas so far in this epoch, this one included.
        fingerprint: `fingerprint` of the model; both sides must have the same.
        tensors: dense parameters by name; `<table>/keys` (n,) uint64 with `<table>/values` (n, dim) float32; in a
            delta perhaps `<table>/gone` (m,) uint64, keys that are not among the others.
        piece: which piece of the whole this is, where several ranks publish one: the first has the dense parameters,
            each the rows of its shards.
    """

    arm: str
    kind: Literal["base", "delta"]
    epoch: int
    version: int
    fingerprint: str
    tensors: Tensors
    piece: Rank = ONLY

    @property
    def at(self) -> Version:
        """The state that an arm is in once this is applied."""
        return Version(self.epoch, self.version)

    @property
    def unusable(self) -> str:
        """Which tensor cannot be served, and why; empty when all can."""
        return next((f"{name} holds {why}" for name, tensor in self.tensors.items() if (why := unusable(tensor))), "")


def joined(pieces: Sequence[Update]) -> Update:
    """Return the update that all pieces are together, given in rank order.

    Raises:
        UpdateRefused: "malformed" when they are not pieces of one.
    """
    first, *others = pieces
    tensors = dict(first.tensors)
    tables = {name.rpartition("/")[0] for name in tensors if name.endswith("/keys")}
    for other in others:
        if other.fingerprint != first.fingerprint or {name.rpartition("/")[0] for name in other.tensors} != tables:
            raise UpdateRefused("malformed", f"the pieces of {first.kind} {first.at} are of different models")
    try:
        for table in tables:
            for part in ("keys", "values", "gone"):
                name = f"{table}/{part}"
                if found := [piece.tensors[name] for piece in pieces if name in piece.tensors]:
                    tensors[name] = np.concatenate(found)
    except ValueError as error:
        raise UpdateRefused("malformed", f"the pieces of {first.kind} {first.at} do not fit: {error}") from None
    return replace(first, tensors=tensors, piece=ONLY)


def check_turn(update: Update, served: Version) -> None:
    """Refuse an update whose turn it is not.

    Raises:
        UpdateRefused: "stale" when what is served is as new, "gap" for a delta when an update between is missing.
    """
    if update.at <= served:
        raise UpdateRefused("stale", f"{update.kind} {update.at}, but {served} is served")
    if update.kind == "delta" and update.at != Version(served.epoch, served.version + 1):
        raise UpdateRefused("gap", f"delta {update.at} does not follow {served}: a base must come")


def check_keys(update: Update, name: str) -> npt.NDArray[np.uint64]:
    """Return the (n,) keys of an update's rows.

    Raises:
        UpdateRefused: "shape" when they are no keys, or one is there twice.
    """
    keys = update.tensors[name]
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise UpdateRefused("shape", f"{name} is {keys.dtype} {keys.shape}, not uint64 (n,)")
    if not keys.all() or len(np.unique(keys)) < len(keys):
        raise UpdateRefused("shape", f"{name} holds key 0 or a key twice")
    return keys


def check_gone(update: Update, table: str) -> npt.NDArray[np.uint64]:
    """Return the (m,) keys of a delta whose rows are to go.

    Raises:
        UpdateRefused: "shape" when they are no keys, one is there twice, or one has a row in the same update.
    """
    gone = check_keys(update, f"{table}/gone")
    if len(np.intersect1d(gone, update.tensors[f"{table}/keys"])):
        raise UpdateRefused("shape", f"{table}/gone holds a key that has a row in the same update")
    return gone


class _Meta(Struct, frozen=True):
    arm: str
    kind: Literal["base", "delta"]
    epoch: Number
    version: Number
    fingerprint: str


class _Header(Struct, frozen=True):
    metadata: dict[str, str] = msgspec.field(name="__metadata__")


def encode(update: Update) -> bytes:
    """Return the update as the bytes of a safetensors file."""
    metadata = {
        "arm": update.arm,
        "kind": update.kind,
        "epoch": str(update.epoch),
        "version": str(update.version),
        "fingerprint": update.fingerprint,
    }
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in update.tensors.items()}
    return safetensors.numpy.save(tensors, metadata)


def decode(payload: bytes, *, max_bytes: int = MAX_BYTES) -> Update:
    """Read what `encode` wrote.

    Raises:
        UpdateRefused: "size" when larger than `max_bytes`, "malformed" when it is no update.
    """
    if len(payload) > max_bytes:
        raise UpdateRefused("size", f"an update of {len(payload)} bytes, more than {max_bytes}")
    try:
        (length,) = struct.unpack_from("<Q", payload)
        metadata = msgspec.json.decode(payload[8 : 8 + length], type=_Header).metadata
        tensors = safetensors.numpy.load(payload)
        meta = msgspec.convert(metadata, _Meta, strict=False)
    except (struct.error, ValueError, KeyError, RecursionError, SafetensorError) as error:
        raise UpdateRefused("malformed", f"not an update: {error}") from None
    return Update(meta.arm, meta.kind, meta.epoch, meta.version, meta.fingerprint, tensors)
