"""Snapshots of partitions in a directory or an object store: complete or absent, verified when read.

A partition's snapshots share what they have in common, since most of RocksDB's files never change:

    <location>/partition-00003/files/<XXH3-128 of the content>
    <location>/partition-00003/00000017.json      the manifest: file name → size and checksum; offsets

The manifest is written last: a snapshot without one does not exist. A file that was cut short is known by its size.
The store must list, read, write and remove files; it needs no directories and no rename.
"""

import posixpath
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import fsspec
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from xxhash import xxh3_128

from state.errors import SnapshotError, disk_error
from state.manifest import with_checksum

FORMAT = 1

_BLOCK = 1 << 20
_YOUNG_S = 3600.0
_MANIFEST_BYTES = 16 << 20
"""More than any manifest of ours: some hundred bytes a file."""

Checksum = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
FileName = Annotated[str, Meta(pattern=r"\A(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,255}\Z")]

ProgressCallback = Callable[[int, int], None]
"""Called with the bytes done and the bytes to be done."""


def _ignore(_done: int, _total: int) -> None:
    pass


class StoredFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One file: its size in bytes and the XXH3-128 of its content, in hexadecimal, by which it is stored."""

    size: Annotated[int, Meta(ge=0)]
    checksum: Checksum


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a snapshot is made of.

    Attributes:
        format: of snapshots.
        partition: the partition number.
        taken_ms: wall clock, milliseconds since the epoch.
        offsets: topic → the next offset to read.
        origins: topic → what its offset is an offset of, as opaque text; unset in snapshots of earlier versions.
        files: name → what is stored of it.
        checksum: XXH3-128 of the manifest's own JSON with this field empty.
    """

    format: int
    partition: int
    taken_ms: int
    offsets: dict[str, int]
    origins: dict[str, str] | UnsetType = UNSET
    files: dict[FileName, StoredFile]
    checksum: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files.values())


class Snapshots:
    """The snapshots of one partition number. One writer at a time: the worker that owns the partition.

    Args:
        location: a directory, or any URL that fsspec knows (`s3://bucket/path`, with its package installed).
        number: the partition number.
        keep: how many `save` leaves.
    """

    def __init__(self, location: str, number: int, *, keep: int = 3) -> None:
        try:
            self._files, root = fsspec.core.url_to_fs(location)
        except (ImportError, ValueError) as error:
            raise SnapshotError(f"snapshots cannot lie in {location!r}: {error}") from None
        self._root = posixpath.join(root, f"partition-{number:05d}")
        self.number = number
        """The partition number."""
        self._keep = keep
        self._known: dict[tuple[str, int, int], StoredFile] = {}

    def numbers(self) -> list[int]:
        """Return the numbers of the snapshots there are, oldest first.

        Raises:
            SnapshotError: when the location cannot be listed.
        """
        try:
            names = self._sizes(self._root)
        except Exception as error:  # each kind of store has errors of its own, here and below
            raise SnapshotError(f"cannot list the snapshots in {self._root}: {error!r}") from error
        stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def save(self, directory: Path, offsets: dict[str, int], origins: dict[str, str] | UnsetType = UNSET) -> int:
        """Store the files of a closed copy of the partition; returns the snapshot's number. Removes the oldest.

        Files that an earlier snapshot brought are not copied again.

        Args:
            directory: of the copy.
            offsets: topic → the next offset to read.
            origins: topic → what its offset is an offset of, as opaque text.

        Raises:
            SnapshotError: when the location cannot be written; the snapshots that are there stay.
        """
        try:
            return self._save(directory, offsets, origins)
        except SnapshotError:
            raise
        except Exception as error:
            raise SnapshotError(f"cannot write a snapshot to {self._root}: {error!r}") from error

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove snapshots, and the files that no other one needs, once they are an hour old.

        Raises:
            SnapshotError: when the location cannot be read or written.
        """
        gone = set(numbers)
        try:
            for number in gone:
                self._files.rm_file(self._manifest(number))
            self._remove_unused(self.numbers(), self._sizes(posixpath.join(self._root, "files")))
        except SnapshotError:
            raise
        except Exception as error:
            raise SnapshotError(f"cannot remove snapshots from {self._root}: {error!r}") from error

    def manifest(self, number: int) -> Manifest:
        """Read a snapshot's manifest.

        Raises:
            SnapshotError: when it is not there, not whole, or of another format.
        """
        try:
            content: bytes = self._files.cat_file(self._manifest(number), end=_MANIFEST_BYTES)
            manifest = msgspec.json.decode(content, type=Manifest)
        except Exception as error:
            raise SnapshotError(f"snapshot {number} of partition {self.number}: {error}") from None
        if with_checksum(manifest) != manifest:
            raise SnapshotError(f"snapshot {number} of partition {self.number}: its manifest is damaged")
        if manifest.format != FORMAT or manifest.partition != self.number:
            raise SnapshotError(
                f"snapshot {number} is of partition {manifest.partition} in format {manifest.format}; wanted are"
                f" partition {self.number} and format {FORMAT}"
            )
        return manifest

    def verify(self, number: int, progress: ProgressCallback = _ignore) -> Manifest:
        """Read all files of a snapshot and compare them with its manifest.

        Raises:
            SnapshotError: for the first file that is missing or damaged.
        """
        manifest = self.manifest(number)
        self._fetch(manifest, None, progress)
        return manifest

    def restore(self, number: int, directory: Path, progress: ProgressCallback = _ignore) -> Manifest:
        """Make a snapshot the state in `directory`, which must not exist: whole, or not at all.

        Raises:
            SnapshotError: when a file is missing or damaged, or the directory exists.
            StateError: when the disk of `directory` does not take it: no other snapshot would fare better.
        """
        if directory.exists():
            raise SnapshotError(f"{directory} exists: move it away to restore a snapshot there")
        manifest = self.manifest(number)
        half = directory.with_name(directory.name + ".half")
        shutil.rmtree(half, ignore_errors=True)
        try:
            with _writing(half):
                half.mkdir(parents=True)
            self._fetch(manifest, half, progress)
            with _writing(half):
                half.rename(directory)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
        return manifest

    def _save(self, directory: Path, offsets: dict[str, int], origins: dict[str, str] | UnsetType) -> int:
        self._files.makedirs(posixpath.join(self._root, "files"), exist_ok=True)
        numbers = self.numbers()
        stored = self._sizes(posixpath.join(self._root, "files"))
        files = {}
        for path in sorted(directory.iterdir()):
            files[path.name] = file = self._described(path)
            # A writer that died may have left only the head of it.
            if stored.get(file.checksum) != file.size:
                self._files.put_file(str(path), self._content(file.checksum))
                stored[file.checksum] = file.size
        number = max(numbers, default=0) + 1
        manifest = Manifest(
            format=FORMAT,
            partition=self.number,
            taken_ms=time.time_ns() // 1_000_000,
            offsets=offsets,
            origins=origins,
            files=files,
        )
        try:
            self._files.pipe_file(self._manifest(number), msgspec.json.encode(with_checksum(manifest)))
        except Exception:
            # Half a manifest would count as one of those that are kept.
            with suppress(Exception):
                self._files.rm_file(self._manifest(number))
            raise
        self._prune([*numbers, number], stored)
        return number

    def _prune(self, numbers: list[int], stored: Iterable[str]) -> None:
        for number in numbers[: -self._keep]:
            self._files.rm_file(self._manifest(number))
        self._remove_unused(numbers[-self._keep :], stored)

    def _remove_unused(self, numbers: list[int], stored: Iterable[str]) -> None:
        """Remove the files that none of these snapshots needs."""
        wanted: set[str] = set()
        for number in numbers:
            try:
                wanted.update(file.checksum for file in self.manifest(number).files.values())
            except SnapshotError:
                return  # one that cannot be read may need any of the files
        for checksum in stored:
            # What is young may belong to a snapshot that a worker which had the partition before is still writing.
            if checksum not in wanted and self._age_s(self._content(checksum)) > _YOUNG_S:
                self._files.rm_file(self._content(checksum))

    def _sizes(self, place: str) -> dict[str, int]:
        """Return name → bytes of the files in a place; none where nothing was ever written."""
        try:
            listed = self._files.ls(place, detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        return {posixpath.basename(each["name"]): each["size"] for each in listed if each["type"] == "file"}

    def _age_s(self, path: str) -> float:
        try:
            modified: datetime = self._files.modified(path)
        except NotImplementedError:
            return 0.0
        return time.time() - modified.timestamp()

    def _described(self, path: Path) -> StoredFile:
        """Return a file's size and checksum; of one that RocksDB never changes, without reading it again."""
        status = path.stat()
        identity = path.name, status.st_ino, status.st_size
        if path.suffix == ".sst" and identity in self._known:
            return self._known[identity]
        digest = xxh3_128()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        self._known[identity] = described = StoredFile(status.st_size, digest.hexdigest())
        return described

    def _fetch(self, manifest: Manifest, directory: Path | None, progress: ProgressCallback) -> None:
        """Read and verify all files; write them into a directory if one is given."""
        done = 0
        for name, file in manifest.files.items():
            digest, size = xxh3_128(), 0
            with _target(directory, name) as write:
                for block in self._blocks(name, file):
                    digest.update(block)
                    size += len(block)
                    write(block)
                    progress(done + size, manifest.size)
            if (size, digest.hexdigest()) != (file.size, file.checksum):
                raise SnapshotError(f"{name} of partition {self.number} is damaged: {size} bytes, not {file.size}")
            done += size

    def _blocks(self, name: str, file: StoredFile) -> Iterator[bytes]:
        """Read a file by the block; what its reader raises in between is no error of the snapshot."""
        size = 0
        try:
            with self._files.open(self._content(file.checksum), "rb") as source:
                # What is longer than it should be is damaged: the rest of it would only fill the disk.
                while size <= file.size and (block := source.read(_BLOCK)):
                    size += len(block)
                    yield block
        except Exception as error:
            raise SnapshotError(f"{name} of partition {self.number}: {error}") from None

    def _manifest(self, number: int) -> str:
        return posixpath.join(self._root, f"{number:08d}.json")

    def _content(self, checksum: str) -> str:
        return posixpath.join(self._root, "files", checksum)


@contextmanager
def _target(directory: Path | None, name: str) -> Iterator[Callable[[bytes], object]]:
    """Give a function that appends to a new file of a directory; it drops what it gets where there is no directory.

    Raises:
        StateError: when the disk does not take it.
    """
    if directory is None:
        yield lambda _block: None
        return
    with _writing(directory):
        file = (directory / name).open("wb")

    def write(block: bytes) -> None:
        with _writing(directory):
            file.write(block)

    try:
        yield write
    finally:
        with _writing(directory):
            file.close()


@contextmanager
def _writing(half: Path) -> Iterator[None]:
    """Write half a partition; what the operating system raises becomes a StateError that names where it lies."""
    try:
        yield
    except OSError as error:
        raise disk_error("restore a snapshot to", half.parent, error, "See why, and start again.") from error
