"""Whose tables a directory holds: another system's are refused, and those whose changelog is gone are removed."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from stream.errors import MonitorError
from stream.monitor.directory import claim_directory
from stream.schema.position import LogIdentity
from stream.settings import Settings, convert

OUTCOMES = LogIdentity("cluster-1", "outcomes", "id-1", 4)
CHANGELOG = "g-counts-10000-changelog"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """What Faust keeps of a table."""
    table = tmp_path / "v1" / "tables" / "counts-10000-0.db"
    table.mkdir(parents=True)
    return table


def settings(directory: Path, group: str = "g") -> Settings:
    return convert({"monitor": {"directory": str(directory), "group": group}})


def test_a_directory_stays_that_of_the_system_that_had_it_first(tmp_path: Path, table: Path) -> None:
    for changelog_id in (None, "a", "a"):
        claim_directory(settings(tmp_path), OUTCOMES, CHANGELOG, changelog_id)
    claim_directory(settings(tmp_path), replace(OUTCOMES, topic_id="id-2"), CHANGELOG, "a")
    for other in (replace(OUTCOMES, cluster="cluster-2"), replace(OUTCOMES, topic="b-outcomes")):
        with pytest.raises(MonitorError, match=f"'outcomes'.*cluster-1.*'{other.topic}'.*{other.cluster}"):
            claim_directory(settings(tmp_path), other, CHANGELOG, "a")
    with pytest.raises(MonitorError, match=r"group g, .* group h: give each monitor\.group a monitor\.directory"):
        claim_directory(settings(tmp_path, "h"), OUTCOMES, "h-counts-10000-changelog", None)
    assert table.exists()


@pytest.mark.parametrize(("known", "now", "kept"), [("a", "b", False), ("a", None, False), ("", "", True)])
def test_tables_whose_changelog_is_gone_are_removed(
    tmp_path: Path, table: Path, known: str, now: str | None, kept: bool
) -> None:
    claim_directory(settings(tmp_path), OUTCOMES, CHANGELOG, known)
    claim_directory(settings(tmp_path), OUTCOMES, CHANGELOG, now)
    assert table.exists() is kept
    table.mkdir(parents=True, exist_ok=True)
    claim_directory(settings(tmp_path), OUTCOMES, CHANGELOG, now)
    assert table.exists()
