"""Whose states lie in a directory: those of another prefix or cluster are neither used nor removed."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from state.errors import disk_error
from state.partition import Partition
from stream.errors import WorkerError
from stream.schema.position import Difference, LogIdentity
from stream.settings import StateSettings
from stream.task.restore import Compare

_FILE = "state-of.json"


def claim_directory(settings: StateSettings, behaviors: LogIdentity) -> None:
    """See that the state directory is this system's, and note that it is.

    Workers of one system share it. One of an earlier version, where nothing is noted, goes to the first that asks.

    Args:
        settings: of the state.
        behaviors: which log `behaviors` is, of which states are a fold.

    Raises:
        WorkerError: when the directory is another system's.
        StateError: when it cannot be used.
    """
    directory = Path(settings.directory)
    owner = _read(directory) or _claim(directory, behaviors)
    if (owner.cluster, owner.topic) != (behaviors.cluster, behaviors.topic):
        raise WorkerError(
            f"the states in {directory} are a fold of topic {owner.topic!r} of cluster {owner.cluster}, and this worker"
            f" reads {behaviors.topic!r} of cluster {behaviors.cluster}: give each topics.prefix and cluster a"
            f" state.directory of its own, or move {directory} away"
        )


def difference_of(
    settings: StateSettings, number: int, state: Partition, behaviors: str, compare: Compare
) -> Difference:
    """Return how `behaviors` differs now from what a state has read; nothing for a state that has read nothing.

    Args:
        settings: of the state.
        number: the partition number.
        state: open.
        behaviors: the topic's name.
        compare: asks Kafka.

    Raises:
        WorkerError: when the state is of other topics or another cluster: it is not ours to remove.
        KafkaClientError: when `compare` gets no answer.
    """
    if not state.offsets:
        return ""
    if behaviors not in state.offsets:
        raise of_other_topics(settings, number, state.offsets)
    difference = compare(state.offsets, state.origins)
    if difference in ("cluster", "topic"):
        raise WorkerError(
            f"a state or copy of partition {number} in {settings.directory} is of another Kafka cluster: give each"
            f" cluster a state.directory of its own, or move {settings.directory} away"
        )
    return difference


def of_other_topics(settings: StateSettings, number: int, topics: Iterable[str]) -> WorkerError:
    """Return the error that a state has read the topics of another prefix."""
    return WorkerError(
        f"the state of partition {number} in {settings.directory} is of other topics ({', '.join(sorted(topics))}):"
        " give each topics.prefix a state.directory of its own"
    )


def _read(directory: Path) -> LogIdentity | None:
    """Return what is noted; None where nothing is that can be read."""
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=LogIdentity)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _claim(directory: Path, behaviors: LogIdentity) -> LogIdentity:
    """Note whose the directory is; returns whose it is, which is another one's if that one was faster."""
    path, partial = directory / _FILE, directory / f"{_FILE}.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(behaviors)))
        try:
            os.link(partial, path)
        except FileExistsError:
            if (owner := _read(directory)) is not None:
                return owner
            partial.replace(path)  # what is there says nothing
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error("write to", directory, error, "See what is wrong with it, then start again.") from None
    return behaviors
