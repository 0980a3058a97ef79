"""The state of one partition: sequences, pending impressions and offsets in one RocksDB, changed together."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct
from rocksdict import Checkpoint, DbClosedError, Rdict, WriteBatch

from state.errors import FormatError, LockedError, StateError, disk_error
from state.layout import CHUNK, META_KEY, OFFSETS_KEY, ORIGINS_KEY, Ring
from state.rocks import REBUILD, open_rocksdb, reading
from state.sequences import Sequences
from state.table import Table

FORMAT = 1
"""Version of the layout on disk (`state.layout`)."""


class Meta(Struct, frozen=True):
    """What the bytes of a partition depend on: format version, `length` and `slack`, records of a chunk."""

    format: int
    length: int
    slack: int
    chunk: int


class Partition:
    """The state of one partition. State and offsets move together: `commit` is one atomic write.

    So after a crash the offsets say exactly which records the sequences and the pending values have seen.
    Sequences and pending values are a fold of those records; a directory may be moved while it is closed. One
    thread at a time.

    Attributes:
        meta: format version and parameters.
        sequences: the users' rolling sequences.
        pending: the pending impressions, as bytes.
    """

    def __init__(self, db: Rdict, path: Path, meta: Meta, *, cache_bytes: int) -> None:
        self._db = db
        self._path = path
        self.meta = meta
        self.sequences = Sequences(db, length=meta.length, slack=meta.slack, cache_bytes=cache_bytes)
        self.pending = Table(db)
        with reading(db):
            stored: bytes | None = db.get(OFFSETS_KEY)
            origins: bytes | None = db.get(ORIGINS_KEY)
        self._offsets = msgspec.json.decode(stored, type=dict[str, int]) if stored is not None else {}
        self._origins = msgspec.json.decode(origins, type=dict[str, str]) if origins is not None else {}

    @classmethod
    def open(cls, path: Path, *, length: int = 1000, slack: int = 256, cache_bytes: int = 256 << 20) -> "Partition":
        """Open the state in a directory; a missing or empty directory becomes a new, empty state.

        Args:
            path: the directory.
            length: the most records that reading a sequence returns.
            slack: a sequence as it was is whole as long as no more than `slack` records came since.
            cache_bytes: bound of the memory for hot users, bytes.

        Raises:
            LockedError: when another process or object has it open.
            FormatError: when it has another format version or other parameters, or holds something else.
            StateError: when RocksDB cannot open it.
            ValueError: when `length` or `slack` is out of range.
        """
        if length < 1 or slack < 0:
            raise ValueError(f"length {length} must be at least 1, slack {slack} at least 0")
        Ring.holding(length + slack)
        wanted = Meta(format=FORMAT, length=length, slack=slack, chunk=CHUNK)
        fresh = not path.exists()
        try:
            db = open_rocksdb(path)
            try:
                _check_meta(db, path, wanted)
                return cls(db, path, wanted, cache_bytes=cache_bytes)
            except BaseException:
                with suppress(Exception):
                    db.close()
                raise
        except LockedError:
            raise
        except BaseException:
            if fresh:
                # What is left of a state that could not be made would be taken for one, in place of a snapshot.
                shutil.rmtree(path, ignore_errors=True)
            raise

    @property
    def offsets(self) -> Mapping[str, int]:
        """Topic -> the next offset to read, as of the last commit; empty when new."""
        return MappingProxyType(self._offsets)

    @property
    def origins(self) -> Mapping[str, str]:
        """Topic -> what its offset is an offset of, as it was given to the last commit."""
        return MappingProxyType(self._origins)

    def commit(self, offsets: Mapping[str, int], origins: Mapping[str, str] = MappingProxyType({})) -> None:
        """Write what changed in `sequences` and `pending`, and the offsets reached, in one atomic batch.

        Args:
            offsets: topic -> the next offset to read; topics not named keep theirs.
            origins: topic -> what its offset is an offset of, as opaque text; topics not named keep theirs.

        Raises:
            StateError: when RocksDB refuses it. The partition is then closed: open it again and read on from the
                offsets that it has.
        """
        merged = {**self._offsets, **offsets}
        batch = WriteBatch(raw_mode=True)
        self.sequences.write_into(batch)
        self.pending.write_into(batch)
        batch.put(OFFSETS_KEY, msgspec.json.encode(dict(sorted(merged.items()))))
        known = {**self._origins, **origins}
        if known:
            batch.put(ORIGINS_KEY, msgspec.json.encode(dict(sorted(known.items()))))
        try:
            self._db.write(batch)
        except Exception as error:  # rocksdict raises no narrower type
            with suppress(StateError):
                self.close()
            raise disk_error(
                "write to", self._path, error, "Its last commit stands: open it again to go on."
            ) from error
        self._offsets, self._origins = merged, known

    def copy(self, directory: Path) -> None:
        """Copy the last commit to a directory that must not exist: hard links, where it is on the same file system.

        Raises:
            StateError: when RocksDB cannot write there.
        """
        try:
            Checkpoint(self._db).create_checkpoint(str(directory))
        except Exception as error:  # rocksdict raises no narrower type
            raise disk_error(f"copy {self._path} to", directory, error, "See why, and try again.") from error

    def close(self) -> None:
        """Close it, more than once if need be. What was not committed is dropped.

        Raises:
            StateError: when RocksDB cannot write its memory into files; the log still has every commit, and it is
                closed.
        """
        try:
            self._db.close()
        except DbClosedError:
            pass
        except Exception as error:  # rocksdict raises no narrower type
            raise disk_error("close", self._path, error, "Its last commit stands: open it again to go on.") from error


def _check_meta(db: Rdict, path: Path, wanted: Meta) -> None:
    """Mark a new database with its parameters, or check those of an old one."""
    with reading(db):
        stored: bytes | None = db.get(META_KEY)
        empty = stored is not None or next(iter(db.keys()), None) is None
    if stored is None:
        if not empty:
            raise FormatError(f"{path} is a RocksDB, but not the state of a partition. Give another directory.")
        try:
            db.put(META_KEY, msgspec.json.encode(wanted))
        except Exception as error:  # rocksdict raises no narrower type
            raise disk_error("write to", path, error, REBUILD) from error
        return
    try:
        found = msgspec.json.decode(stored, type=Meta)
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path} holds state in an unknown format ({error}). {REBUILD}") from error
    if found.format != FORMAT:
        raise FormatError(f"{path} holds state in format {found.format}, this version reads format {FORMAT}. {REBUILD}")
    if found != wanted:
        raise FormatError(
            f"{path} was made with length {found.length}, slack {found.slack}, chunk {found.chunk}; asked for"
            f" are length {wanted.length}, slack {wanted.slack}, chunk {wanted.chunk}. Set them as they were."
            f" Or: {REBUILD}"
        )
