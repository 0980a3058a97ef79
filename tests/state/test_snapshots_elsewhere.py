"""Snapshots in a store that is no file system: no directories, no renaming, errors of its own."""

import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from state.errors import SnapshotError
from state.partition import Partition
from state.snapshots import Snapshots
from tests.state.partitions import contents, live, opened, save


class StoreError(Exception):
    """What a store's own library raises: no OSError."""


class ObjectStore(MemoryFileSystem):  # type: ignore[misc]
    """Whole objects under keys. What a key lacks of a path, this lacks as well."""

    protocol = "objects"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    failing: ClassVar[bool] = False

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        pass

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        pass

    def mv(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("an object has no name to change")

    rename = move = cp_file = mv

    def modified(self, path: str) -> datetime:
        raise NotImplementedError

    def ls(self, path: str, detail: bool = True, **more: Any) -> Any:
        if ObjectStore.failing:
            raise StoreError("no credentials")
        return super().ls(path, detail, **more)

    def cat_file(self, path: str, *args: Any, **more: Any) -> Any:
        if ObjectStore.failing:
            raise StoreError("no credentials")
        return super().cat_file(path, *args, **more)


fsspec.register_implementation("objects", ObjectStore, clobber=True)


@pytest.fixture(params=["memory", "objects"])
def store(request: pytest.FixtureRequest) -> Iterator[Snapshots]:
    yield Snapshots(f"{request.param}://bucket-{uuid.uuid4().hex}/deep/path", 3, keep=2)
    ObjectStore.failing = False


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[Partition]:
    partition = opened(tmp_path / "state")
    live(partition, 0, 150)
    yield partition
    partition.close()


def inner(store: Snapshots) -> tuple[MemoryFileSystem, list[str]]:
    """The file system, and the paths of the files of all snapshots."""
    files, root = store._files, store._root
    return files, sorted(path for path in files.store if path.startswith(f"{root}/files/"))


def test_snapshots_are_stored_found_verified_and_restored(
    store: Snapshots, partition: Partition, tmp_path: Path
) -> None:
    assert store.numbers() == []
    for number in (1, 2, 3):
        assert save(store, partition, tmp_path / "copy") == number
        live(partition, 150 + number, 1)
    assert store.numbers() == [2, 3]
    heard: list[tuple[int, int]] = []
    manifest = store.verify(3)
    assert manifest.offsets == {"behaviors": 153}
    store.restore(3, tmp_path / "restored", lambda done, total: heard.append((done, total)))
    assert heard[-1] == (manifest.size, manifest.size)
    restored, expected = opened(tmp_path / "restored"), opened(tmp_path / "expected")
    for start, count in ((0, 150), (151, 1), (152, 1)):
        live(expected, start, count)
    assert contents(restored) == contents(expected)


def test_what_did_not_change_is_not_sent_again_and_what_was_cut_short_is(
    store: Snapshots, partition: Partition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, partition, tmp_path / "copy")
    files, paths = inner(store)
    sent: list[str] = []
    put = files.put_file

    def noted(path: str, to: str) -> None:
        sent.append(to)
        put(path, to)

    monkeypatch.setattr(files, "put_file", noted)
    partition.copy(tmp_path / "copy")
    store.save(tmp_path / "copy", {"behaviors": 150})
    sst = {path.name for path in (tmp_path / "copy").glob("*.sst")}
    checksums = {store.manifest(2).files[name].checksum for name in sst}
    assert checksums
    assert not any(to.endswith(checksum) for to in sent for checksum in checksums)

    biggest = max(paths, key=files.size)
    files.pipe_file(biggest, files.cat_file(biggest)[:-1])
    with pytest.raises(SnapshotError, match="damaged"):
        store.verify(1)
    store.save(tmp_path / "copy", {"behaviors": 150})
    shutil.rmtree(tmp_path / "copy")
    assert biggest in sent
    store.verify(3)


def test_files_go_when_no_snapshot_needs_them_where_the_store_knows_their_age(
    partition: Partition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Snapshots(f"memory://{uuid.uuid4().hex}", 3, keep=1)
    save(store, partition, tmp_path / "copy")
    files, before = inner(store)
    monkeypatch.setattr(files, "modified", lambda _: datetime(2020, 1, 1, tzinfo=UTC))
    live(partition, 150, 1)
    save(store, partition, tmp_path / "copy")
    assert {file.checksum for file in store.manifest(2).files.values()} == {
        path.rpartition("/")[2] for path in inner(store)[1]
    }
    assert set(before) - set(inner(store)[1])


def test_the_errors_of_a_store_are_said_in_one_line(partition: Partition, tmp_path: Path) -> None:
    store = Snapshots(f"objects://{uuid.uuid4().hex}", 3)
    save(store, partition, tmp_path / "copy")
    ObjectStore.failing = True
    try:
        with pytest.raises(SnapshotError, match=r"cannot list.*no credentials"):
            store.numbers()
        with pytest.raises(SnapshotError, match="no credentials"):
            store.restore(1, tmp_path / "restored")
        with pytest.raises(SnapshotError, match="no credentials"):
            save(store, partition, tmp_path / "copy")
    finally:
        ObjectStore.failing = False
    assert not (tmp_path / "restored").exists()
