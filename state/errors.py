"""What can go wrong with the state of a partition."""

from pathlib import Path

_FULL = ("No space left on device", "Disk quota exceeded")
_FORBIDDEN = ("Permission denied", "Read-only file system")


class StateError(Exception):
    """The state cannot be used; the text says why and what to do. Base of this package's other errors."""


class FormatError(StateError):
    """The directory holds state of an unknown format version or of other parameters."""


class LockedError(StateError):
    """Another process, or another object of this one, has the directory open; it may close it soon."""


class SnapshotError(StateError):
    """A snapshot is missing, damaged, or cannot be written."""


def disk_error(doing: str, path: Path, error: Exception, otherwise: str) -> StateError:
    """Return the error that says in one line what could not be done where, why, and what to do.

    Args:
        doing: such as `write to`.
        path: the directory.
        error: what RocksDB or the operating system said.
        otherwise: what to do where neither room nor a permission is missing.
    """
    said = " ".join(str(error).split()).removesuffix(".")
    if any(text in said for text in _FULL):
        advice = "Make room there, then start again: what was committed is kept."
    elif any(text in said for text in _FORBIDDEN):
        advice = "Make it writable for this user, then start again: what was committed is kept."
    else:
        advice = otherwise
    return StateError(f"cannot {doing} {path}: {said}. {advice}")
