"""Checkpoints of a trainer on disk: written whole or not at all, verified when read, the newest few kept.

A checkpoint is a directory named by an 8-digit number that only grows. It holds `arm-<name>.safetensors` for
each arm, `seen.safetensors`, and `manifest.json` with everything else and the checksums of all.

Of several ranks, each writes files of its own (`arm-<name>@1.safetensors`): `begin`, then `write_shard` on every
rank, then `finish`. The manifest names all of them and comes last, so they are there together or not at all. What is
read is the same as of one rank: everything.
"""

import fcntl
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from msgspec import UNSET, Meta, Struct, UnsetType
from safetensors import SafetensorError
from xxhash import xxh3_128_hexdigest

from model.embedding.shards import ONLY, SHARDS, Rank, merged_states
from model.errors import CheckpointError
from model.serialization.update import Tensors
from state.errors import StateError
from state.manifest import with_checksum

FORMAT = 1
SHARDED_FORMAT = 2
"""Of a checkpoint of several ranks; releases from before them refuse it."""

_MANIFEST = "manifest.json"
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
        step: turns that the ranks had taken together; 0 where there was one.
        ranks: how many have written it.
    """

    epoch: int
    offsets: Mapping[int, int]
    arms: Mapping[str, ArmState]
    seen: npt.NDArray[np.uint64]
    counts: Mapping[str, int] = field(default_factory=dict)
    origins: Mapping[int, str] = field(default_factory=dict)
    step: int = 0
    ranks: int = 1


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
    step: int | UnsetType = UNSET
    ranks: Annotated[int, Meta(ge=1, le=65_536)] | UnsetType = UNSET
    shards: int | UnsetType = UNSET
    """These three are set where several ranks have written it."""
    checksum: str = ""
    """XXH3-128 of the manifest's own JSON with this field empty."""


class _Shard(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one rank has written."""

    offsets: dict[int, int]
    counts: dict[str, int]
    progress: dict[Name, dict[str, Any]]
    files: dict[str, _File]
    origins: dict[int, str]


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
    half = _begin(directory)
    if attach is not None:
        attach(half)
    manifest = _Manifest(
        format=FORMAT,
        epoch=checkpoint.epoch,
        offsets=dict(checkpoint.offsets),
        counts=dict(checkpoint.counts),
        origins=dict(checkpoint.origins) or UNSET,
        progress={name: arm.progress for name, arm in checkpoint.arms.items()},
        files=_write_files(half, checkpoint, ONLY),
    )
    return _publish(half, manifest, keep)


def begin(directory: Path) -> Path:
    """Begin a checkpoint of several ranks, as the first of them; returns the directory that all write to.

    Raises:
        CheckpointError: when the directory cannot be written.
    """
    with _writing(directory):
        return _begin(directory)


def write_shard(half: Path, checkpoint: Checkpoint, rank: Rank, *, attach: Callable[[Path], None]) -> None:
    """Write what one rank has of a checkpoint, as `Learner.state` of that rank returns it, flushed to the disk.

    Args:
        half: the directory that `begin` returned.
        checkpoint: of this rank: its offsets, ids and counts.
        rank: which one it is.
        attach: see `save`; of each rank what it has.

    Raises:
        CheckpointError: when the disk is full or the directory cannot be written.
    """
    with _writing(half.parent):
        attach(half)
        shard = _Shard(
            offsets=dict(checkpoint.offsets),
            counts=dict(checkpoint.counts),
            origins=dict(checkpoint.origins),
            progress={name: arm.progress for name, arm in checkpoint.arms.items()},
            files=_write_files(half, checkpoint, rank),
        )
        _write_bytes(half / _shard_file(rank), msgspec.json.encode(shard))
        _sync(half)


def finish(
    half: Path,
    epoch: int,
    step: int,
    ranks: int,
    *,
    keep: int,
    merge: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> Path:
    """Make a checkpoint of what all ranks have written, as the first of them: one rename, after which all of it counts.

    Args:
        half: the directory that `begin` returned.
        epoch: of the trainer.
        step: how many turns the ranks have taken together.
        ranks: how many there are.
        keep: newest checkpoints kept.
        merge: makes one arm's plain values of those of the ranks.

    Raises:
        CheckpointError: when a rank has not written its shard, or the directory cannot be written.
    """
    with _writing(half.parent):
        shards = [_read_shard(half / _shard_file(Rank(number, ranks))) for number in range(ranks)]
        first = shards[0]
        manifest = _Manifest(
            format=SHARDED_FORMAT,
            epoch=epoch,
            step=step,
            ranks=ranks,
            shards=SHARDS,
            offsets={number: offset for shard in shards for number, offset in shard.offsets.items()},
            origins={number: origin for shard in shards for number, origin in shard.origins.items()},
            counts=dict(sum((Counter(shard.counts) for shard in shards), Counter())),
            progress={
                name: merge([found for shard in shards if (found := shard.progress.get(name))])
                for name in first.progress
            },
            files={name: file for shard in shards for name, file in shard.files.items()},
        )
        for number in range(ranks):
            (half / _shard_file(Rank(number, ranks))).unlink()
        return _publish(half, manifest, keep)


def _begin(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    _remove_halves(directory)
    refused = [int(path.stem) for path in directory.glob(f"*{_REFUSED}") if path.stem.isdecimal()]
    half = directory / f"{max([*_numbers(directory), *refused], default=0) + 1:08d}{_HALF}"
    half.mkdir()
    return half


def _write_files(half: Path, checkpoint: Checkpoint, rank: Rank) -> dict[str, _File]:
    tensors = {_arm_file(name, rank.number): arm.tensors for name, arm in checkpoint.arms.items()}
    tensors[_seen_file(rank.number)] = {"ids": checkpoint.seen}
    return {name: _write(half / name, content) for name, content in tensors.items()}


def _publish(half: Path, manifest: _Manifest, keep: int) -> Path:
    """Write the manifest, give the directory its name, and remove the oldest ones."""
    directory, target = half.parent, half.with_suffix("")
    _write_bytes(half / _MANIFEST, msgspec.json.encode(with_checksum(manifest)))
    _sync(half)
    half.rename(target)
    _sync(directory)
    for number in sorted(_numbers(directory))[:-keep]:
        shutil.rmtree(directory / f"{number:08d}")
    return target


def load_newest(directory: Path, rank: Rank = ONLY) -> NewestCheckpoint:
    """Return the newest checkpoint that is whole, as `load` does.

    Damaged and half-written ones are passed over and left where they are: another process may be writing.
    """
    if not directory.is_dir():
        return NewestCheckpoint(None, [])
    refused: list[RefusedCheckpoint] = []
    for number in sorted(_numbers(directory), reverse=True):
        path = directory / f"{number:08d}"
        try:
            return NewestCheckpoint(load(path, rank), refused, path)
        except CheckpointError as error:
            refused.append(RefusedCheckpoint(path, str(error)))
    return NewestCheckpoint(None, refused)


def load(path: Path, rank: Rank = ONLY) -> Checkpoint:
    """Read and verify the checkpoint in the directory `path`, whatever number of ranks has written it.

    Args:
        path: of the checkpoint.
        rank: who goes on from it. Of as many ranks as have written it, each has its own ids, else those of all.

    Raises:
        CheckpointError: when a file is missing or damaged, or the format is unknown.
    """
    manifest = _read_manifest(path / _MANIFEST)
    ranks = range(manifest.ranks or 1)
    arms = {name: [file for each in ranks if (file := _arm_file(name, each)) in manifest.files] for name in
            manifest.progress}  # fmt: skip
    seen = [_seen_file(each) for each in ranks]
    if manifest.files.keys() != {*seen, *chain.from_iterable(arms.values())} or not all(arms.values()):
        raise CheckpointError(f"{_MANIFEST} does not name the files of its arms")
    tensors = {name: _read(path / name, file) for name, file in manifest.files.items()}
    if len(ranks) == rank.ranks:
        ids = tensors[seen[rank.number]]["ids"]
    else:
        ids = np.unique(np.concatenate([tensors[name]["ids"] for name in seen]), axis=0)
    return Checkpoint(
        epoch=manifest.epoch,
        offsets=manifest.offsets,
        arms={
            name: ArmState(merged_states([tensors[file] for file in files]), manifest.progress[name])
            for name, files in arms.items()
        },
        seen=ids,
        counts=manifest.counts,
        origins=manifest.origins or {},
        step=manifest.step or 0,
        ranks=len(ranks),
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


def _arm_file(name: str, rank: int = 0) -> str:
    return f"arm-{name}{_of(rank)}.safetensors"


def _seen_file(rank: int) -> str:
    return f"seen{_of(rank)}.safetensors"


def _shard_file(rank: Rank) -> str:
    return f"shard{_of(rank.number)}.json"


def _of(rank: int) -> str:
    """Return what tells the files of a rank apart, which no arm's name has; the first has those of the only one."""
    return f"@{rank}" if rank else ""


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
        if written not in (FORMAT, SHARDED_FORMAT):
            text = f"format {written}, this release reads {FORMAT} and {SHARDED_FORMAT}"
            raise CheckpointError(f"{text}: use the one that wrote it")
        manifest = msgspec.json.decode(content, type=_Manifest)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    if with_checksum(manifest) != manifest:
        raise CheckpointError(f"{path.name} is damaged: its checksum is another")
    return manifest


def _read_shard(path: Path) -> _Shard:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Shard)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: {error}. All ranks must see the same trainer.directory") from None


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
