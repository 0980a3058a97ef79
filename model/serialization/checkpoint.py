"""Checkpoints of a trainer on disk: written whole or not at all, verified when read, the newest few kept.

A checkpoint is a directory named by an 8-digit number that only grows. It holds `arm-<name>.safetensors` for
each arm, `seen.safetensors`, and `manifest.json` with everything else and the checksums of all.

Of several ranks, each writes files of its own (`arm-<name>@1.safetensors`): `begin`, then `write_shard` on every
rank, then `finish`. The manifest names all of them and comes last, so they are there together or not at all. What is
read is the same as of one rank: everything.
"""

import fcntl
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from model.embedding.shards import ONLY, SHARDS, Rank, merged_states
from model.errors import CheckpointError
from model.serialization.checkpoint_files import (
    FORMAT,
    HALF,
    MANIFEST,
    REFUSED,
    SHARDED_FORMAT,
    File,
    Manifest,
    Shard,
    arm_file,
    numbers,
    read_manifest,
    read_shard,
    read_tensors,
    seen_file,
    shard_file,
    sync,
    write_bytes,
    write_tensors,
)
from model.serialization.update import Tensors
from state.errors import StateError
from state.manifest import with_checksum


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
            each.path.rename(each.path.with_suffix(REFUSED))


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
    manifest = Manifest(
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
        shard = Shard(
            offsets=dict(checkpoint.offsets),
            counts=dict(checkpoint.counts),
            origins=dict(checkpoint.origins),
            progress={name: arm.progress for name, arm in checkpoint.arms.items()},
            files=_write_files(half, checkpoint, rank),
        )
        write_bytes(half / shard_file(rank), msgspec.json.encode(shard))
        sync(half)


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
        shards = [read_shard(half / shard_file(Rank(number, ranks))) for number in range(ranks)]
        first = shards[0]
        manifest = Manifest(
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
            (half / shard_file(Rank(number, ranks))).unlink()
        return _publish(half, manifest, keep)


def _begin(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    _remove_halves(directory)
    refused = [int(path.stem) for path in directory.glob(f"*{REFUSED}") if path.stem.isdecimal()]
    half = directory / f"{max([*numbers(directory), *refused], default=0) + 1:08d}{HALF}"
    half.mkdir()
    return half


def _write_files(half: Path, checkpoint: Checkpoint, rank: Rank) -> dict[str, File]:
    tensors = {arm_file(name, rank.number): arm.tensors for name, arm in checkpoint.arms.items()}
    tensors[seen_file(rank.number)] = {"ids": checkpoint.seen}
    return {name: write_tensors(half / name, content) for name, content in tensors.items()}


def _publish(half: Path, manifest: Manifest, keep: int) -> Path:
    """Write the manifest, give the directory its name, and remove the oldest ones."""
    directory, target = half.parent, half.with_suffix("")
    write_bytes(half / MANIFEST, msgspec.json.encode(with_checksum(manifest)))
    sync(half)
    half.rename(target)
    sync(directory)
    for number in sorted(numbers(directory))[:-keep]:
        shutil.rmtree(directory / f"{number:08d}")
    return target


def load_newest(directory: Path, rank: Rank = ONLY) -> NewestCheckpoint:
    """Return the newest checkpoint that is whole, as `load` does.

    Damaged and half-written ones are passed over and left where they are: another process may be writing.
    """
    if not directory.is_dir():
        return NewestCheckpoint(None, [])
    refused: list[RefusedCheckpoint] = []
    for number in sorted(numbers(directory), reverse=True):
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
    manifest = read_manifest(path / MANIFEST)
    ranks = range(manifest.ranks or 1)
    arms = {name: [file for each in ranks if (file := arm_file(name, each)) in manifest.files] for name in
            manifest.progress}  # fmt: skip
    seen = [seen_file(each) for each in ranks]
    if manifest.files.keys() != {*seen, *chain.from_iterable(arms.values())} or not all(arms.values()):
        raise CheckpointError(f"{MANIFEST} does not name the files of its arms")
    tensors = {name: read_tensors(path / name, file) for name, file in manifest.files.items()}
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


def _remove_halves(directory: Path) -> None:
    for path in directory.glob(f"*{HALF}"):
        shutil.rmtree(path)
