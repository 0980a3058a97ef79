"""Checkpoints: what comes back, what a crash leaves, what damage is noticed."""

import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from model.errors import CheckpointError
from model.metrics import ProgressiveMetrics
from model.serialization import checkpoint as checkpoints
from model.serialization.checkpoint import ArmState, Checkpoint, load_newest, save
from model.serialization.checkpoint_files import read_manifest
from state.errors import StateError
from state.manifest import with_checksum
from tests.model.serialization.crashing import dying_after


def checkpoint(number: int) -> Checkpoint:
    rng = np.random.default_rng(number)
    metrics = ProgressiveMetrics(window=10)
    metrics.add((rng.random(25) < 0.5).astype(np.float32), rng.random(25))
    tensors = {"w": rng.normal(size=(3, 2)).astype(np.float32), "keys": rng.integers(0, 2**64, 5, np.uint64)}
    return Checkpoint(
        epoch=number,
        offsets={0: 2**40 + number, 7: 0},
        arms={
            "sam": ArmState(tensors, {"metrics": metrics.to_dict(), "version": 3}),
            "seen": ArmState({"counters": np.arange(4)}),
        },
        seen=rng.integers(0, 2**64, 100, np.uint64),
        counts={"samples": 17},
    )


def assert_equal(got: Checkpoint | None, sent: Checkpoint) -> None:
    assert got is not None
    assert (got.epoch, got.offsets, got.counts) == (sent.epoch, sent.offsets, sent.counts)
    assert np.array_equal(got.seen, sent.seen)
    assert got.arms.keys() == sent.arms.keys()
    for name, arm in sent.arms.items():
        assert got.arms[name].progress == arm.progress
        assert got.arms[name].tensors.keys() == arm.tensors.keys()
        for key, tensor in arm.tensors.items():
            assert got.arms[name].tensors[key].dtype == tensor.dtype
            assert np.array_equal(got.arms[name].tensors[key], tensor)


def test_the_newest_comes_back_as_it_was_and_three_are_kept(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there"
    assert load_newest(directory).checkpoint is None
    paths = [save(directory, checkpoint(number)) for number in range(1, 6)]
    assert [path.name for path in paths] == [f"{number:08d}" for number in range(1, 6)]
    assert sorted(path.name for path in directory.iterdir()) == [path.name for path in paths[2:]]
    found = load_newest(directory)
    assert_equal(found.checkpoint, checkpoint(5))
    assert found.refused == []


def test_what_is_attached_comes_and_goes_with_its_checkpoint(tmp_path: Path) -> None:
    def attach(half: Path) -> None:
        (half / "more").mkdir()
        (half / "more" / "file").write_text(half.name)

    paths = [save(tmp_path, checkpoint(number), keep=2, attach=attach) for number in range(3)]
    assert [(path / "more" / "file").exists() for path in paths] == [False, True, True]
    assert load_newest(tmp_path).path == paths[-1]

    def fails(_half: Path) -> None:
        raise StateError("no room")

    with pytest.raises(StateError, match="no room"):
        save(tmp_path, checkpoint(3), attach=fails)
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths[1:]]


@pytest.mark.long
def test_every_single_byte_counts(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1))
    newest = save(tmp_path, checkpoint(2))
    for path in sorted(newest.iterdir()):
        content = path.read_bytes()
        for at in np.linspace(0, len(content) - 1, 60).astype(int).tolist():
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            found = load_newest(tmp_path)
            assert_equal(found.checkpoint, checkpoint(1))
            assert [refused.path for refused in found.refused] == [newest]
        path.write_bytes(content)
    assert_equal(load_newest(tmp_path).checkpoint, checkpoint(2))


@pytest.mark.parametrize("name", ["manifest.json", "arm-sam.safetensors", "seen.safetensors"])
def test_a_missing_empty_or_cut_file_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    save(tmp_path, checkpoint(1))
    newest = save(tmp_path, checkpoint(2))
    content = (newest / name).read_bytes()
    for cut in (content[:-1], b""):
        (newest / name).write_bytes(cut)
        found = load_newest(tmp_path)
        assert_equal(found.checkpoint, checkpoint(1))
        assert name in found.refused[0].reason
    (newest / name).unlink()
    assert name in load_newest(tmp_path).refused[0].reason


def test_when_all_are_damaged_there_is_none_and_the_next_number_is_new(tmp_path: Path) -> None:
    for number in (1, 2):
        (save(tmp_path, checkpoint(number)) / "manifest.json").write_text("{")
    found = load_newest(tmp_path)
    assert found.checkpoint is None
    assert len(found.refused) == 2
    assert save(tmp_path, checkpoint(3)).name == "00000003"
    assert_equal(load_newest(tmp_path).checkpoint, checkpoint(3))


def test_another_format_is_refused_and_says_so(tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint(1)) / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**manifest, "format": 3, "new": "field"}))
    assert "format 3" in load_newest(tmp_path).refused[0].reason
    with pytest.raises(CheckpointError, match="format 3"):
        checkpoints.load(path.parent)


@pytest.mark.parametrize("step", range(8))
def test_a_crash_at_any_step_of_writing_leaves_the_one_before(tmp_path: Path, step: int) -> None:
    save(tmp_path, checkpoint(1))
    with dying_after(step):
        try:
            save(tmp_path, checkpoint(2))
            died = False
        except KeyboardInterrupt:
            died = True
    # Four files and their directory are flushed, then comes the name: the sixth step decides.
    assert died == (step < 7)
    assert_equal(load_newest(tmp_path).checkpoint, checkpoint(2 if step > 5 else 1))
    assert_equal(checkpoints.load(save(tmp_path, checkpoint(3))), checkpoint(3))
    assert all(path.name.isdigit() for path in tmp_path.iterdir())


def test_reading_leaves_alone_what_another_process_is_writing(tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint(1))
    shutil.copytree(path, tmp_path / "00000002.half")
    assert_equal(load_newest(tmp_path).checkpoint, checkpoint(1))
    assert sorted(left.name for left in tmp_path.iterdir()) == ["00000001", "00000002.half"]


@pytest.mark.parametrize("name", ["/../../evil", "../evil", "", "a\0", "x" * 129])
def test_a_manifest_with_a_right_checksum_never_leads_out_of_its_directory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, checkpoint(1))
    manifest = read_manifest(path / "manifest.json")
    files = {**manifest.files, f"arm-{name}.safetensors": manifest.files["arm-sam.safetensors"]}
    forged = msgspec.structs.replace(manifest, files=files, progress={**manifest.progress, name: {}})
    (path / "manifest.json").write_bytes(msgspec.json.encode(with_checksum(forged)))
    monkeypatch.setattr(checkpoints, "read_tensors", lambda path, _file: pytest.fail(f"{path} was opened"))
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoints.load(path)


def test_a_file_of_another_size_is_refused_unread(tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint(1))
    os.truncate(path / "seen.safetensors", 10**12)
    with pytest.raises(CheckpointError, match=r"seen\.safetensors is damaged: 1000000000000 bytes"):
        checkpoints.load(path)


def test_an_arm_that_would_leave_the_directory_is_not_written(tmp_path: Path) -> None:
    arms = {"../../evil": ArmState({})}
    with pytest.raises(ValueError, match="evil"):
        save(tmp_path, Checkpoint(1, {}, arms, np.zeros(0, np.uint64)))
    assert list(tmp_path.iterdir()) == []
