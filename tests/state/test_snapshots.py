"""Snapshots: what was saved comes back to the byte, or is refused; what they share is stored once."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_128

from state.behavior import behaviors
from state.errors import SnapshotError
from state.snapshots import Snapshots
from tests.state.partitions import contents, live, opened, save


@pytest.fixture
def store(tmp_path: Path) -> Snapshots:
    return Snapshots(str(tmp_path / "snapshots"), 3, keep=2)


def test_what_was_saved_comes_back_and_what_came_later_does_not(tmp_path: Path, store: Snapshots) -> None:
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    partition.sequences.append("user-0", behaviors([(9, 9, 9, 9)]))  # not committed
    number = save(store, partition, tmp_path / "copy")
    live(partition, 150, 10)
    partition.close()
    heard: list[tuple[int, int]] = []
    manifest = store.restore(number, tmp_path / "restored", lambda done, total: heard.append((done, total)))
    assert manifest.offsets == {"behaviors": 150}
    assert heard[-1] == (manifest.size, manifest.size)
    expected = opened(tmp_path / "expected")
    live(expected, 0, 150)
    restored = opened(tmp_path / "restored")
    assert contents(restored) == contents(expected)
    live(restored, 150, 10)
    live(expected, 150, 10)
    assert contents(restored) == contents(expected)


def test_files_that_did_not_change_are_stored_once_and_go_with_the_last_that_needs_them(
    tmp_path: Path, store: Snapshots
) -> None:
    files = tmp_path / "snapshots" / "partition-00003" / "files"
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    numbers = [save(store, partition, tmp_path / "copy")]
    tables = {path.name for path in files.iterdir()}
    before = sum(path.stat().st_size for path in files.iterdir())
    live(partition, 150, 1)
    numbers.append(save(store, partition, tmp_path / "copy"))
    assert store.manifest(numbers[1]).size > before, "the second one needs what the first one has"
    assert tables & {file.checksum for file in store.manifest(numbers[1]).files.values()}
    for path in files.iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    live(partition, 151, 1)
    numbers.append(save(store, partition, tmp_path / "copy"))
    assert store.numbers() == numbers[1:] == [2, 3]
    wanted = {file.checksum for number in numbers[1:] for file in store.manifest(number).files.values()}
    assert {path.name for path in files.iterdir()} == wanted
    for number in numbers[1:]:
        store.verify(number)


def test_what_is_young_may_belong_to_a_snapshot_that_another_still_writes(tmp_path: Path, store: Snapshots) -> None:
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    save(store, partition, tmp_path / "copy")
    stray = tmp_path / "snapshots" / "partition-00003" / "files" / "0123"
    stray.write_bytes(b"on its way")
    save(store, partition, tmp_path / "copy")
    assert stray.exists()
    os.utime(stray, (time.time() - 7200,) * 2)
    save(store, partition, tmp_path / "copy")
    assert not stray.exists()


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_refused_and_leaves_nothing_behind(tmp_path: Path, store: Snapshots, damage: str) -> None:
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    number = save(store, partition, tmp_path / "copy")
    path = max((tmp_path / "snapshots" / "partition-00003" / "files").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(SnapshotError):
        store.verify(number)
    with pytest.raises(SnapshotError):
        store.restore(number, tmp_path / "restored")
    assert [path.name for path in tmp_path.iterdir() if "restored" in path.name] == []


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": {"behaviors": 151}},
        {"format": 2},
        {"partition": 4},
        {"files": {"../../evil": {"size": 1, "checksum": "00"}}},
        {"surprise": 1},
    ],
)
def test_a_manifest_that_was_changed_is_refused(tmp_path: Path, store: Snapshots, change: dict[str, object]) -> None:
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    number = save(store, partition, tmp_path / "copy")
    path = tmp_path / "snapshots" / "partition-00003" / f"{number:08d}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SnapshotError):
        store.restore(number, tmp_path / "restored")


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as who knows its format would: its checksum is right."""
    values = json.loads(path.read_text())
    change(values)
    empty = json.dumps(values | {"checksum": ""}, separators=(",", ":"))
    path.write_text(json.dumps(values | {"checksum": xxh3_128(empty.encode()).hexdigest()}, separators=(",", ":")))


def first_file(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(values["files"].values()))
    return found


def renamed(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda values: values["files"].update({name: values["files"].pop("CURRENT")})


@pytest.mark.parametrize(
    "change",
    [
        *(renamed(name) for name in ("../evil", "/tmp/evil", "..", ".", "", "a/b", "a\0b", "CURRENT\n", "x" * 256)),
        lambda values: first_file(values).update(checksum="/etc/passwd"),
        lambda values: first_file(values).update(checksum="../00000001.json"),
        lambda values: first_file(values).update(checksum=""),
        lambda values: first_file(values).update(size=-1),
    ],
)
def test_a_manifest_with_a_right_checksum_never_leads_out_of_its_directory(
    tmp_path: Path, store: Snapshots, change: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    number = save(store, partition, tmp_path / "copy")
    path = tmp_path / "snapshots" / "partition-00003" / f"{number:08d}.json"
    reseal(path, lambda _values: None)
    store.verify(number)
    reseal(path, change)
    read: list[str] = []
    really_open = store._files.open

    def noted(name: str, *arguments: Any, **more: Any) -> Any:
        read.append(name)
        return really_open(name, *arguments, **more)

    monkeypatch.setattr(store._files, "open", noted)
    with pytest.raises(SnapshotError, match=f"snapshot {number}"):
        store.restore(number, tmp_path / "restored")
    assert read == [str(path)], "something else than the manifest was opened"


def test_what_is_longer_than_its_manifest_says_is_not_fetched_to_its_end(tmp_path: Path, store: Snapshots) -> None:
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    number = save(store, partition, tmp_path / "copy")
    path = max((tmp_path / "snapshots" / "partition-00003" / "files").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(path, 10**12)
    fetched: list[int] = []
    with pytest.raises(SnapshotError, match="damaged"):
        store.restore(number, tmp_path / "restored", lambda done, _total: fetched.append(done))
    assert max(fetched) < 10**8
    os.truncate(tmp_path / "snapshots" / "partition-00003" / f"{number:08d}.json", 10**12)
    with pytest.raises(SnapshotError):
        store.manifest(number)


def test_what_is_raised_while_it_is_restored_ends_that_and_is_no_damage(tmp_path: Path, store: Snapshots) -> None:
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    number = save(store, partition, tmp_path / "copy")

    class TakenAwayError(Exception):
        """What a worker raises whose partitions are another's."""

    def taken_away(_done: int, _total: int) -> None:
        raise TakenAwayError

    with pytest.raises(TakenAwayError):
        store.restore(number, tmp_path / "restored", taken_away)
    assert not list(tmp_path.glob("restored*"))


def test_a_directory_that_is_there_is_never_replaced(tmp_path: Path, store: Snapshots) -> None:
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    number = save(store, partition, tmp_path / "copy")
    with pytest.raises(SnapshotError, match="move it away"):
        store.restore(number, tmp_path / "state")


def test_no_snapshots_yet_and_a_place_that_cannot_be(tmp_path: Path, store: Snapshots) -> None:
    assert store.numbers() == []
    with pytest.raises(SnapshotError):
        store.manifest(1)
    with pytest.raises(SnapshotError, match="nowhere"):
        Snapshots("nowhere://bucket/path", 0)
    (tmp_path / "file").write_text("")
    partition = opened(tmp_path / "state")
    live(partition, 0, 1)
    with pytest.raises(SnapshotError, match="cannot write"):
        save(Snapshots(str(tmp_path / "file"), 0), partition, tmp_path / "copy")
