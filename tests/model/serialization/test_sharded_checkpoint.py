"""Checkpoints of several ranks: there together or not at all, and the same for any number of readers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.embedding.shards import Rank, state_of
from model.errors import CheckpointError
from model.learner import Learner
from model.serialization import checkpoint as checkpoints
from model.serialization.checkpoint import ArmState, Checkpoint, begin, finish, load_newest, save, write_shard
from model.serialization.update import Tensors
from tests.model.learning import examples, small
from tests.model.serialization.crashing import dying_after


def learned(seed: int) -> Tensors:
    learner = Learner(small("din"), seed=1)
    for number in range(3):
        learner.learn(examples(5, seed=seed + number))
    return learner.state()


def shard(state: Tensors, rank: Rank, epoch: int = 1) -> Checkpoint:
    """Return what a rank writes of a state: its rows, and the offsets of its partitions."""
    partitions = range(rank.number, 5, rank.ranks)
    return Checkpoint(
        epoch=epoch,
        offsets={number: 100 * epoch + number for number in partitions},
        origins={number: f"log {number}" for number in partitions},
        arms={"a": ArmState(state_of(state, rank), {"rank": rank.number})}
        | ({"_counts": ArmState({"n": np.arange(3)}, {"own": 1})} if rank.number == 0 else {}),
        seen=np.array([rank.number + 1, 77], np.uint64),
        counts={"samples": 10, f"of rank {rank.number}": 1},
    )


def merge(states: list[dict[str, Any]]) -> dict[str, Any]:
    return states[0] if len(states) == 1 else {"ranks": [state["rank"] for state in states]}


def attach(rank: Rank) -> Any:
    def write(directory: Path) -> None:
        (directory / f"sequences-{rank.number}").write_text("folded")

    return write


def write(directory: Path, state: Tensors, ranks: int, epoch: int = 1) -> Path:
    half = begin(directory)
    for number in range(ranks):
        write_shard(half, shard(state, Rank(number, ranks), epoch), Rank(number, ranks), attach=attach(Rank(number)))
    return finish(half, epoch, 42, ranks, keep=3, merge=merge)


def assert_same(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    for name in one:
        if not name.endswith("/rows"):
            ours, theirs = (np.sort(np.atleast_1d(each[name]), axis=0) for each in (one, other))
            assert np.array_equal(ours, theirs), name


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 3, 70])
def test_what_ranks_have_written_is_read_as_one_whole(tmp_path: Path, ranks: int) -> None:
    state = learned(1)
    path = write(tmp_path, state, ranks)
    found = load_newest(tmp_path)
    assert found.path == path
    whole = found.checkpoint
    assert whole is not None
    assert_same(whole.arms["a"].tensors, state)
    learner = Learner(small("din"), seed=1)
    learner.load_state(whole.arms["a"].tensors)
    original = Learner(small("din"), seed=1)
    original.load_state(state)
    asked = examples(4, seed=9)
    for ours, theirs in zip(learner.predict(asked), original.predict(asked), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert whole.offsets == {number: 100 + number for number in range(5)}
    assert whole.origins == {number: f"log {number}" for number in range(5)}
    assert whole.counts["samples"] == 10 * ranks
    assert whole.arms["a"].progress == {"ranks": list(range(ranks))}
    assert whole.arms["_counts"].progress == {"own": 1}
    assert (whole.epoch, whole.step, whole.ranks) == (1, 42, ranks)
    assert set(whole.seen.tolist()) == {*range(1, ranks + 1), 77}
    assert checkpoints.load(path, Rank(1, ranks)).seen.tolist() == [2, 77], "its own ids, where as many go on"
    assert len(list(path.glob("sequences-*"))) == ranks
    assert not list(path.glob("shard*")), "the manifest says it all"


@pytest.mark.long
@pytest.mark.parametrize("step", range(16))
def test_a_crash_at_any_step_leaves_the_one_before(tmp_path: Path, step: int) -> None:
    before, after = learned(1), learned(50)
    save(tmp_path, Checkpoint(1, {0: 1}, {"a": ArmState(before)}, np.zeros(0, np.uint64)))
    with dying_after(step):
        try:
            write(tmp_path, after, 2, epoch=2)
            renamed = True
        except KeyboardInterrupt:
            renamed = (tmp_path / "00000002").is_dir()
    found = load_newest(tmp_path)
    assert not found.refused
    assert found.checkpoint is not None
    assert found.checkpoint.epoch == (2 if renamed else 1)
    assert_same(found.checkpoint.arms["a"].tensors, after if renamed else before)
    assert renamed == (step > 11), (
        "three files and four of the ranks, their directory twice, the manifest: then the name"
    )
    write(tmp_path, after, 2, epoch=3)
    assert all(path.name.isdigit() for path in tmp_path.iterdir()), "what was half is removed"


@pytest.mark.parametrize("damage", ["arm-a@1.safetensors", "seen@1.safetensors", "manifest.json"])
def test_a_damaged_or_missing_shard_refuses_the_whole(tmp_path: Path, damage: str) -> None:
    write(tmp_path, learned(1), 2)
    path = write(tmp_path, learned(2), 2, epoch=2) / damage
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))
    found = load_newest(tmp_path)
    assert found.checkpoint is not None
    assert found.checkpoint.epoch == 1
    path.unlink()
    assert damage in load_newest(tmp_path).refused[0].reason


def test_a_rank_whose_shard_is_missing_is_told(tmp_path: Path) -> None:
    half = begin(tmp_path)
    write_shard(half, shard(learned(1), Rank(0, 2)), Rank(0, 2), attach=attach(Rank(0)))
    with pytest.raises(CheckpointError, match=r"shard@1.json.*see the same trainer.directory"):
        finish(half, 1, 0, 2, keep=3, merge=merge)
