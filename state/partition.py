"""The state of one partition: sequences, pending impressions and offsets in one RocksDB, changed together."""

import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct
from rocksdict import Checkpoint, DbClosedError, Rdict, WriteBatch

from state.conversion import convert_behaviors, unfinished
from state.errors import FormatError, LockedError, StateError, disk_error
from state.layout import CHUNK, ERASED_KEY, META_KEY, OFFSETS_KEY, ORIGINS_KEY, PENDING_PREFIX, Ring, user_prefix
from state.records import Fields, Record, fields_of, record_of
from state.rocks import REBUILD, drop_deleted, open_rocksdb, reading
from state.sequences import Sequences
from state.table import Table

FORMAT = 3
"""Version of the layout on disk (`state.layout`). In formats 1, where behaviours have no features, and 2, where they
may, heads hold the whole open chunk; both are read, and each head is written anew when its user comes."""
_READABLE = (1, 2, FORMAT)


_MOST_RANGES = 100
"""Of more users at once, all files are rewritten: each range costs about a file."""


class Meta(Struct, frozen=True):
    """What the bytes of a partition depend on.

    Attributes:
        format: version of the layout.
        length: as in `Partition.open`.
        slack: as in `Partition.open`.
        chunk: records of a chunk.
        features: fields of a behaviour's record beyond those of `BEHAVIOR`.
    """

    format: int
    length: int
    slack: int
    chunk: int
    features: Fields = []


class Partition:
    """The state of one partition. State and offsets move together: `commit` is one atomic write.

    So after a crash the offsets say exactly which records the sequences and the pending values have seen.
    Sequences and pending values are a fold of those records; a directory may be moved while it is closed. One
    thread at a time, but for `purge`.

    Attributes:
        meta: format version and parameters.
        sequences: the users' rolling sequences.
        pending: the pending impressions, as bytes.
    """

    def __init__(self, db: Rdict, path: Path, meta: Meta, *, cache_bytes: int) -> None:
        self._db = db
        self._path = path
        self.meta = meta
        self.converted = 0
        """Values of sequences that had another layout of features, and were converted when it was opened."""
        record = record_of(meta.features, of_behavior=True)
        self.sequences = Sequences(db, length=meta.length, slack=meta.slack, cache_bytes=cache_bytes, record=record)
        self.pending = Table(db)
        with reading(db):
            stored: bytes | None = db.get(OFFSETS_KEY)
            origins: bytes | None = db.get(ORIGINS_KEY)
            self._unpurged = db.get(ERASED_KEY) is not None
        self._offsets = msgspec.json.decode(stored, type=dict[str, int]) if stored is not None else {}
        self._origins = msgspec.json.decode(origins, type=dict[str, str]) if origins is not None else {}
        self._everywhere = self._unpurged
        """Whether it is not known whose bytes are to go: then all files are rewritten."""
        self._erased: set[str] = set()
        self._deleted: set[str] = set()
        self._flag = threading.Lock()
        self._purging = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        length: int = 1000,
        slack: int = 256,
        cache_bytes: int = 256 << 20,
        record: Record | None = None,
    ) -> "Partition":
        """Open the state in a directory; a missing or empty directory becomes a new, empty state.

        Behaviours with other features are converted first: that takes about half a minute for each GB, once.

        Args:
            path: the directory.
            length: the most records that reading a sequence returns.
            slack: a sequence as it was is whole as long as no more than `slack` records came since.
            cache_bytes: bound of the memory for hot users, bytes.
            record: of a behaviour: `BEHAVIOR`, perhaps with features after it (`state.records`); None to leave it as
                it is.

        Raises:
            LockedError: when another process or object has it open.
            FormatError: when it has another format version or other parameters, or holds something else.
            StateError: when RocksDB cannot open it.
            ValueError: when `length` or `slack` is out of range.
        """
        if length < 1 or slack < 0:
            raise ValueError(f"length {length} must be at least 1, slack {slack} at least 0")
        Ring.holding(length + slack)
        features = None if record is None else fields_of(record)
        wanted = Meta(FORMAT, length=length, slack=slack, chunk=CHUNK, features=features or [])
        fresh = not path.exists()
        try:
            db = open_rocksdb(path)
            try:
                meta, converted = _check_meta(db, path, wanted, keep_record=record is None)
                opened = cls(db, path, meta, cache_bytes=cache_bytes)
                opened.converted = converted
                return opened
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

    def erase(self, users: Iterable[str]) -> int:
        """Forget the sequences of users; returns how many had one. Their pending values are the caller's to delete.

        The next commit makes it durable; `purge` then takes their bytes out of the files.
        """
        known = {user for user in users if self.sequences.erase(user)}
        self._erased |= known
        return len(known)

    def mark_erased(self, users: Iterable[str]) -> None:
        """Have the bytes of users go out of the files, also those of values that were deleted long ago."""
        self._erased.update(users)

    @property
    def unpurged(self) -> bool:
        """Whether the files still have, or may have, bytes of users who were erased."""
        return self._unpurged or bool(self._erased)

    def purge(self) -> None:
        """Take the bytes of users who were erased, as of the last commit, out of the files.

        Files are rewritten without them. Another thread may go on with the partition meanwhile. A crash loses nothing:
        the next opening knows that it is to be done, and then rewrites all files. Of a closed one nothing is done.

        Raises:
            StateError: when the disk does not take it; it is still to be done then.
        """
        with self._purging:
            with self._flag:
                if not self._unpurged:
                    return
                users, self._deleted = self._deleted, set()
                everywhere, self._everywhere = self._everywhere, False
            ranges: list[tuple[bytes | None, bytes | None]]
            if everywhere or len(users) > _MOST_RANGES:
                ranges = [(None, None)]
            else:
                prefixes = [PENDING_PREFIX, *map(user_prefix, sorted(users))]
                ranges = [(prefix, _end(prefix)) for prefix in prefixes]
            try:
                drop_deleted(self._db, ranges)
                with self._flag:
                    if not self._deleted:
                        self._db.delete(ERASED_KEY)
                        self._unpurged = False
                # Only the change after the compaction makes a manifest without the keys of before.
                self._db.flush()
            except Exception as error:  # rocksdict raises no narrower type
                with self._flag:
                    self._unpurged = self._everywhere = True
                if isinstance(error, DbClosedError):
                    return
                raise disk_error("rewrite", self._path, error, "Its last commit stands: open it again.") from error

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
            if self._erased:
                self._write_erased(batch)
            else:
                self._db.write(batch)
        except Exception as error:  # rocksdict raises no narrower type
            with suppress(StateError):
                self.close()
            raise disk_error(
                "write to", self._path, error, "Its last commit stands: open it again to go on."
            ) from error
        self._offsets, self._origins = merged, known

    def _write_erased(self, batch: WriteBatch) -> None:
        """Write a batch that deletes users, with the note that their bytes are to go."""
        with self._flag:
            batch.put(ERASED_KEY, b"")
            self._db.write(batch)
            self._unpurged = True
            self._deleted |= self._erased
            self._erased = set()

    def copy(self, directory: Path) -> None:
        """Copy the last commit to a directory that must not exist: hard links, where it is on the same file system.

        A copy holds no bytes of users who were erased before that commit.

        Raises:
            StateError: when RocksDB cannot write there.
        """
        self.purge()
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
            with self._purging:
                self._db.close()
        except DbClosedError:
            pass
        except Exception as error:  # rocksdict raises no narrower type
            raise disk_error("close", self._path, error, "Its last commit stands: open it again to go on.") from error


def link_state(source: Path, target: Path) -> None:
    """Make a second state of a closed one, in a directory that must not exist: what either writes then is its own.

    Files that RocksDB never changes are hard links where that is possible, all others are small.

    Raises:
        StateError: when the disk does not take it.
    """

    def link(file: str, to: str) -> None:
        if file.endswith(".sst"):
            with suppress(OSError):  # another file system, or one without hard links
                return os.link(file, to)
        shutil.copy(file, to)
        return None

    try:
        shutil.copytree(source, target, copy_function=link)
    except OSError as error:
        raise disk_error(f"copy {source} to", target, error, "See why, and start again.") from error


def _end(prefix: bytes) -> bytes:
    """Return a key behind all that begin with a prefix: what follows a user is a number of 16 bits."""
    return prefix + b"\xff\xff\xff"


def _check_meta(db: Rdict, path: Path, wanted: Meta, *, keep_record: bool) -> tuple[Meta, int]:
    """Mark a new database with its parameters, or check those of an old one, and convert it to them.

    Returns the parameters that it has now, and how many values were converted.
    """
    with reading(db):
        stored: bytes | None = db.get(META_KEY)
        empty = stored is not None or next(iter(db.keys()), None) is None
    if stored is None:
        if not empty:
            raise FormatError(f"{path} is a RocksDB, but not the state of a partition. Give another directory.")
        _put_meta(db, path, wanted)
        return wanted, 0
    try:
        found = msgspec.json.decode(stored, type=Meta)
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path} holds state in an unknown format ({error}). {REBUILD}") from error
    if found.format not in _READABLE or (found.features and found.format == 1):
        raise FormatError(
            f"{path} holds state in format {found.format}, this version reads formats up to {FORMAT}. {REBUILD}"
        )
    if msgspec.structs.replace(found, format=FORMAT, features=wanted.features) != wanted:
        raise FormatError(
            f"{path} was made with length {found.length}, slack {found.slack}, chunk {found.chunk}; asked for"
            f" are length {wanted.length}, slack {wanted.slack}, chunk {wanted.chunk}. Set them as they were."
            f" Or: {REBUILD}"
        )
    if found.format != FORMAT:
        # Before anything is written in a way that earlier versions would misread.
        found = msgspec.structs.replace(found, format=FORMAT)
        _put_meta(db, path, found)
    done = 0
    # One that was interrupted goes on first: only then do all records have one layout.
    if (begun := unfinished(db)) is not None:
        found, done = _convert(db, path, found, begun)
    if not keep_record and wanted.features != found.features:
        found, more = _convert(db, path, found, wanted.features)
        done += more
    return found, done


def _put_meta(db: Rdict, path: Path, meta: Meta) -> None:
    try:
        db.put(META_KEY, msgspec.json.encode(meta))
    except Exception as error:  # rocksdict raises no narrower type
        raise disk_error("write to", path, error, REBUILD) from error


def _convert(db: Rdict, path: Path, found: Meta, features: Fields) -> tuple[Meta, int]:
    """Bring behaviours into the layout with these features; returns what the database is now."""
    now = msgspec.structs.replace(found, features=features)
    try:
        done = convert_behaviors(
            db,
            found.features,
            features,
            finish=lambda batch: batch.put(META_KEY, msgspec.json.encode(now)),
        )
    except StateError:
        raise
    except Exception as error:  # rocksdict raises no narrower type
        raise disk_error("write to", path, error, "Make room there, then start again: it goes on.") from error
    return now, done
