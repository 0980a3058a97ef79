"""What can go wrong with the state of a partition."""


class StateError(Exception):
    """The state cannot be used; the text says why and what to do. Base of this package's other errors."""


class FormatError(StateError):
    """The directory holds state of an unknown format version or of other parameters."""


class LockedError(StateError):
    """Another process, or another object of this one, has the directory open; it may close it soon."""


class SnapshotError(StateError):
    """A snapshot is missing, damaged, or cannot be written."""
