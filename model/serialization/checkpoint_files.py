"""The files of a checkpoint: their names, manifest and checksums; each is flushed when written, verified when read."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import safetensors.numpy
from msgspec import UNSET, Meta, Struct, UnsetType
from safetensors import SafetensorError
from xxhash import xxh3_128_hexdigest

from model.embedding.shards import Rank
from model.errors import CheckpointError
from model.serialization.update import Tensors
from state.manifest import with_checksum

FORMAT = 1
SHARDED_FORMAT = 2
"""Of a checkpoint of several ranks; releases from before them refuse it."""

MANIFEST = "manifest.json"
HALF = ".half"
REFUSED = ".refused"

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.+-]{1,128}\Z")]
"""Of an arm; it becomes part of a file's name."""


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """A file as it was written: bytes, and their XXH3-128."""

    size: int
    checksum: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that is no tensor, and what the files must be."""

    format: int
    epoch: int
    offsets: dict[int, int]
    counts: dict[str, int]
    progress: dict[Name, dict[str, Any]]
    files: dict[str, File]
    origins: dict[int, str] | UnsetType = UNSET
    """Unset in checkpoints from before it was kept: their checksums do not cover it."""
    step: int | UnsetType = UNSET
    ranks: Annotated[int, Meta(ge=1, le=65_536)] | UnsetType = UNSET
    shards: int | UnsetType = UNSET
    """These three are set where several ranks have written it."""
    checksum: str = ""
    """XXH3-128 of the manifest's own JSON with this field empty."""


class Shard(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one rank has written."""

    offsets: dict[int, int]
    counts: dict[str, int]
    progress: dict[Name, dict[str, Any]]
    files: dict[str, File]
    origins: dict[int, str]


class _Format(Struct):
    format: int


def arm_file(name: str, rank: int = 0) -> str:
    """Return the file of an arm's tensors."""
    return f"arm-{name}{_of(rank)}.safetensors"


def seen_file(rank: int) -> str:
    """Return the file of the recent ids."""
    return f"seen{_of(rank)}.safetensors"


def shard_file(rank: Rank) -> str:
    """Return the file of what a rank says of its part, until all parts are there."""
    return f"shard{_of(rank.number)}.json"


def _of(rank: int) -> str:
    """Return what tells the files of a rank apart, which no arm's name has; the first has those of the only one."""
    return f"@{rank}" if rank else ""


def numbers(directory: Path) -> list[int]:
    """Return the numbers of the complete checkpoints in a directory."""
    return [int(path.name) for path in directory.iterdir() if re.fullmatch(r"[0-9]{8}", path.name)]


def write_tensors(path: Path, tensors: Tensors) -> File:
    """Write tensors as safetensors, flushed to the disk."""
    content = safetensors.numpy.save({key: np.asarray(array, order="C") for key, array in tensors.items()})
    write_bytes(path, content)
    return File(len(content), xxh3_128_hexdigest(content))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, flushed to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(directory: Path) -> None:
    """Flush the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        CheckpointError: when it is missing or damaged, or its format is unknown.
    """
    try:
        content = path.read_bytes()
        written = msgspec.json.decode(content, type=_Format).format
        if written not in (FORMAT, SHARDED_FORMAT):
            text = f"format {written}, this release reads {FORMAT} and {SHARDED_FORMAT}"
            raise CheckpointError(f"{text}: use the one that wrote it")
        manifest = msgspec.json.decode(content, type=Manifest)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    if with_checksum(manifest) != manifest:
        raise CheckpointError(f"{path.name} is damaged: its checksum is another")
    return manifest


def read_shard(path: Path) -> Shard:
    """Read what a rank has written.

    Raises:
        CheckpointError: when it is not there, or is no such file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Shard)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: {error}. All ranks must see the same trainer.directory") from None


def read_tensors(path: Path, file: File) -> Tensors:
    """Read tensors, once size and checksum are seen to be those that were written.

    Raises:
        CheckpointError: when they are not, or the file cannot be read.
    """
    try:
        if (found := path.stat().st_size) != file.size:  # before memory is taken for it
            raise CheckpointError(f"{path.name} is damaged: {found} bytes, {file.size} were written")
        content = path.read_bytes()
        if len(content) != file.size or xxh3_128_hexdigest(content) != file.checksum:
            raise CheckpointError(f"{path.name} is damaged: {len(content)} bytes, {file.size} were written")
        return safetensors.numpy.load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path.name}: {error}") from None
