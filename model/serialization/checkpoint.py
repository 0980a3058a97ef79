"""Checkpoints of a trainer on disk: written whole or not at all, verified when read, the newest few kept.

A checkpoint is a directory named by an 8-digit number that only grows. It holds `arm-<name>.safetensors` for
each arm, `seen.safetensors`, and `manifest.json` with everything else and the checksums of all.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from msgspec import UNSET, Meta, Struct, UnsetType
from safetensors import SafetensorError
from xxhash import xxh3_128_hexdigest

from model.errors import CheckpointError
from model.serialization.update import Tensors
from state.errors import StateError
from state.manifest import with_checksum

FORMAT = 1

_MANIFEST = "manifest.json"
_SEEN = "seen.safetensors"
_HALF = ".half"
_REFUSED = ".refused"

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.+-]{1,128}\Z")]
"""Of an arm; it becomes part of a file's name."""


@dataclass(frozen=True, slots=True)
class ArmState:
    """One arm: what `Learner.state` returned, and plain values, such as metrics, that JSON can hold."""

    tensors: Tensors
    progress: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything a trainer needs to go on as if it had never stopped.

    Attributes:
        epoch: of the trainer that wrote it.
        offsets: partition of the samples → next offset to read.
        origins: partition → what that offset is an offset of, as opaque text.
        arms: state of each arm by name.
        seen: (n, 2) uint64 ids of the samples that would be recognised as repeats, and whose they are.
        counts: counters by name.
    """

    epoch: int
    offsets: Mapping[int, int]
    arms: Mapping[str, ArmState]
    seen: npt.NDArray[np.uint64]
    counts: Mapping[str, int] = field(default_factory=dict)
    origins: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RefusedCheckpoint:
    """A checkpoint that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class NewestCheckpoint:
    """The newest complete checkpoint and its path, None when there is none; and newer ones that cannot be used."""

    checkpoint: Checkpoint | None
    refused: list[RefusedCheckpoint]
    path: Path | None = None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    checksum: str


class _Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: int
    epoch: int
    offsets: dict[int, int]
    counts: dict[str, int]
    progress: dict[Name, dict[str, Any]]
    files: dict[str, _File]
    origins: dict[int, str] | UnsetType = UNSET
    """Unset in checkpoints from before it was kept: their checksums do not cover it."""
    checksum: str = ""
    """XXH3-128 of the manifest's own JSON with this field empty."""


class _Format(Struct):
    format: int


@contextmanager
def sole_writer(directory: Path, remedy: str = "stop it, or give this one a directory of its own") -> Iterator[None]:
    """Lock a directory of checkpoints for one writer; the lock ends with the process.

    Args:
        directory: of the checkpoints.
        remedy: what to do when another process holds it.

    Raises:
        CheckpointError: when another process holds it.
    """
    with ExitStack() as stack:
        with _writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((directory / "lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(f"another trainer works in {directory}: {remedy}") from None
        yield


def set_aside(refused: Iterable[RefusedCheckpoint]) -> None:
    """Rename checkpoints that were refused, so that no later `save` counts or removes them."""
    for each in refused:
        with _writing(each.path.parent):
            each.path.rename(each.path.with_suffix(_REFUSED))


def save(
    directory: Path, checkpoint: Checkpoint, *, keep: int = 3, attach: Callable[[Path], None] | None = None
) -> Path:
    """Write a checkpoint under the next number, and remove all but the newest `keep`.

    It is written under another name, flushed to the disk, and renamed: a crash leaves the old ones as they were, and an
    incomplete one that the next call removes. What `attach` writes into its directory comes and goes with it; our
    checksums do not cover that. There must be one writer to a directory.

    Raises:
        ValueError: when an arm's name cannot be part of a file's name.
        CheckpointError: when the disk is full or the directory cannot be written; the old ones are as they were.
    """
    if bad := [name for name in checkpoint.arms if not re.fullmatch(r"[\w.+-]{1,128}", name, re.ASCII)]:
        raise ValueError(f"arms {bad} cannot name a file: use letters, digits, '.', '_', '+' and '-'")
    with _writing(directory):
        try:
            return _save(directory, checkpoint, keep, attach)
        except (OSError, StateError):
            with suppress(OSError):
                _remove_halves(directory)  # what makes a full disk no fuller
            raise


def _save(directory: Path, checkpoint: Checkpoint, keep: int, attach: Callable[[Path], None] | None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    _remove_halves(directory)
    numbers = _numbers(directory)
    refused = [int(path.stem) for path in directory.glob(f"*{_REFUSED}") if path.stem.isdecimal()]
    target = directory / f"{max([*numbers, *refused], default=0) + 1:08d}"
    half = target.with_suffix(_HALF)
    half.mkdir()
    if attach is not None:
        attach(half)
    tensors = {_arm_file(name): arm.tensors for name, arm in checkpoint.arms.items()}
    tensors[_SEEN] = {"ids": checkpoint.seen}
    manifest = _Manifest(
        format=FORMAT,
        epoch=checkpoint.epoch,
        offsets=dict(checkpoint.offsets),
        counts=dict(checkpoint.counts),
        origins=dict(checkpoint.origins) or UNSET,
        progress={name: arm.progress for name, arm in checkpoint.arms.items()},
        files={name: _write(half / name, content) for name, content in tensors.items()},
    )
    _write_bytes(half / _MANIFEST, msgspec.json.encode(with_checksum(manifest)))
    _sync(half)
    half.rename(target)
    _sync(directory)
    for number in sorted([*numbers, int(target.name)])[:-keep]:
        shutil.rmtree(directory / f"{number:08d}")
    return target


def load_newest(directory: Path) -> NewestCheckpoint:
    """Return the newest checkpoint that is whole.

    Damaged and half-written ones are passed over and left where they are: another process may be writing.
    """
    if not directory.is_dir():
        return NewestCheckpoint(None, [])
    refused: list[RefusedCheckpoint] = []
    for number in sorted(_numbers(directory), reverse=True):
        path = directory / f"{number:08d}"
        try:
            return NewestCheckpoint(load(path), refused, path)
        except CheckpointError as error:
            refused.append(RefusedCheckpoint(path, str(error)))
    return NewestCheckpoint(None, refused)


def load(path: Path) -> Checkpoint:
    """Read and verify the checkpoint in the directory `path`.

    Raises:
        CheckpointError: when a file is missing or damaged, or the format is unknown.
    """
    manifest = _read_manifest(path / _MANIFEST)
    if manifest.files.keys() != {_SEEN, *map(_arm_file, manifest.progress)}:
        raise CheckpointError(f"{_MANIFEST} does not name the files of its arms")
    tensors = {name: _read(path / name, file) for name, file in manifest.files.items()}
    return Checkpoint(
        epoch=manifest.epoch,
        offsets=manifest.offsets,
        arms={name: ArmState(tensors[_arm_file(name)], value) for name, value in manifest.progress.items()},
        seen=tensors[_SEEN]["ids"],
        counts=manifest.counts,
        origins=manifest.origins or {},
    )


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Write to a directory; what the operating system raises becomes a CheckpointError that names it."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoints to {directory}: {error}. Make room there, or make it writable for this user,"
            " then start again: the newest checkpoint stands, and what came after it is learned again."
        ) from None


def _arm_file(name: str) -> str:
    return f"arm-{name}.safetensors"


def _numbers(directory: Path) -> list[int]:
    return [int(path.name) for path in directory.iterdir() if re.fullmatch(r"[0-9]{8}", path.name)]


def _remove_halves(directory: Path) -> None:
    for path in directory.glob(f"*{_HALF}"):
        shutil.rmtree(path)


def _write(path: Path, tensors: Tensors) -> _File:
    content = safetensors.numpy.save({key: np.asarray(array, order="C") for key, array in tensors.items()})
    _write_bytes(path, content)
    return _File(len(content), xxh3_128_hexdigest(content))


def _write_bytes(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Flush the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(path: Path) -> _Manifest:
    try:
        content = path.read_bytes()
        written = msgspec.json.decode(content, type=_Format).format
        if written != FORMAT:
            raise CheckpointError(f"format {written}, this release reads {FORMAT}: use the one that wrote it")
        manifest = msgspec.json.decode(content, type=_Manifest)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    if with_checksum(manifest) != manifest:
        raise CheckpointError(f"{path.name} is damaged: its checksum is another")
    return manifest


def _read(path: Path, file: _File) -> Tensors:
    try:
        if (found := path.stat().st_size) != file.size:  # before memory is taken for it
            raise CheckpointError(f"{path.name} is damaged: {found} bytes, {file.size} were written")
        content = path.read_bytes()
        if len(content) != file.size or xxh3_128_hexdigest(content) != file.checksum:
            raise CheckpointError(f"{path.name} is damaged: {len(content)} bytes, {file.size} were written")
        return safetensors.numpy.load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path.name}: {error}") from None
