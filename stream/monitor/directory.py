"""Whose tables lie in a monitor's directory: a table on disk knows an offset of its changelog, but no name."""

import logging
import shutil
from pathlib import Path

import msgspec
from msgspec import Struct

from stream.errors import MonitorError
from stream.monitor.sources import other_system
from stream.runtime.logs import log
from stream.schema.position import LogIdentity
from stream.settings import Settings

_logger = logging.getLogger("samstream.monitor")

_FILE = "counts-of.json"


class TablesOwner(Struct):
    """What the tables of a directory are tables of.

    Attributes:
        group: the monitors' group.
        outcomes: the topic that they count.
        changelogs: changelog topic → its Kafka topic id, empty where the broker has none.
    """

    group: str
    outcomes: LogIdentity
    changelogs: dict[str, str] = {}


def claim_directory(settings: Settings, outcomes: LogIdentity, changelog: str, changelog_id: str | None) -> None:
    """See that the directory is this system's, and note that it is.

    Tables whose changelog was deleted, or recreated, are removed: they know offsets of what is no more.

    Args:
        settings: the configuration.
        outcomes: which log the topic `outcomes` is.
        changelog: the topic of the table's changes.
        changelog_id: its Kafka topic id, empty where the broker has none; None when there is no such topic.

    Raises:
        MonitorError: when the tables are another system's.
        OSError: when the directory cannot be used.
    """
    directory = Path(settings.monitor.directory)
    owner = _read(directory) or TablesOwner(settings.monitor.group, outcomes)
    if (owner.outcomes.cluster, owner.outcomes.topic) != (outcomes.cluster, outcomes.topic):
        raise other_system(settings, owner.outcomes, outcomes)
    if owner.group != settings.monitor.group:
        raise MonitorError(
            f"the tables in {directory} are those of group {owner.group}, and this monitor is of group"
            f" {settings.monitor.group}: give each monitor.group a monitor.directory of its own, or move {directory}"
            " away"
        )
    known = owner.changelogs.get(changelog)
    if known is not None and (changelog_id is None or (known and changelog_id and known != changelog_id)):
        log(_logger, "tables_removed", logging.WARNING, directory=directory, reason=f"{changelog} was deleted since")
        for path in directory.glob("v*/tables"):
            shutil.rmtree(path)
        owner.changelogs.clear()
    if changelog_id is not None:
        owner.changelogs[changelog] = changelog_id
    owner.outcomes = outcomes
    _write(directory, owner)


def _read(directory: Path) -> TablesOwner | None:
    """Return what is noted; None where nothing is, as in a directory of an earlier version."""
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=TablesOwner)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _write(directory: Path, owner: TablesOwner) -> None:
    partial = directory / f"{_FILE}.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(owner)))
    partial.replace(directory / _FILE)
