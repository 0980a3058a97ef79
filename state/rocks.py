"""How RocksDB is opened: its options, and its errors in this package's terms."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DBCompressionType,
    Options,
    Rdict,
)

from state.errors import LockedError, disk_error

REBUILD = "Move the directory away to restore its newest snapshot, or to rebuild the state from Kafka."

_MIB = 1 << 20
_BLOCK_CACHE = 32 * _MIB


def open_rocksdb(path: Path) -> Rdict:
    """Open or create a database in raw mode (keys and values are bytes).

    The write-ahead log is on and is not fsynced: what a killed process wrote is kept, a power failure may take
    the last writes, never one in the middle.

    Raises:
        LockedError: when it is open already.
        StateError: when RocksDB cannot open it.
    """
    try:
        return Rdict(str(path), _options())
    except Exception as error:  # rocksdict raises no narrower type
        text = str(error)
        if "lock hold by current process" in text or "While lock file" in text:
            raise LockedError(
                f"{path} is in use ({text}). Close what has it open, or give another directory."
            ) from error
        raise disk_error("open", path, error, REBUILD) from error


@contextmanager
def reading(db: Rdict) -> Iterator[None]:
    """Read from a database; what RocksDB raises becomes a StateError that names the directory."""
    try:
        yield
    except Exception as error:  # rocksdict raises no narrower type
        raise disk_error("read", Path(db.path()), error, REBUILD) from error


def drop_deleted(db: Rdict, ranges: Iterable[tuple[bytes | None, bytes | None]]) -> None:
    """Take what was deleted out of the files: tables, write-ahead log and manifest. Writes may go on meanwhile.

    Until a compaction comes to them, RocksDB keeps the bytes of deleted and overwritten values.

    Args:
        db: the database.
        ranges: the first key of each, and the one behind its last; None is open.
    """
    options = CompactOptions()
    # By default the lowest level, where nothing is left to merge with, stays as it is.
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
    db.flush()  # ends the log that has the values
    for begin, end in ranges:
        # A range without bounds is None to RocksDB, which the stubs know as well.
        db.compact_range(begin, end, options)


def _options() -> Options:
    table = BlockBasedOptions()
    # A user's chunks lie side by side: blocks larger than the default bring them with fewer reads.
    table.set_block_size(16 << 10)
    table.set_block_cache(Cache(_BLOCK_CACHE))
    # Most keys of a short sequence are not there; the filter says so without a read.
    table.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    # LZ4 saved a third of the disk, and made reading a cold user a fifth slower.
    options.set_compression_type(DBCompressionType.none())
    options.set_write_buffer_size(32 * _MIB)
    options.set_max_open_files(512)
    options.set_max_log_file_size(_MIB)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    # A manifest names the first and last key of each file that ever was: a new one with each change names those of now.
    options.set_max_manifest_file_size(1)
    return options
