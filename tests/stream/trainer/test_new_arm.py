"""A new arm in a checkpoint: only it is new, and what cannot be is refused with what to do."""

import re
from pathlib import Path
from typing import Any

import pytest

from model.errors import CheckpointError
from model.serialization import checkpoint
from model.serialization.checkpoint import Checkpoint
from stream.cli.main import main
from stream.errors import TrainerError
from stream.settings import Settings, convert
from stream.trainer.new_arm import add_arm
from stream.trainer.training import Training
from tests.stream.trainer.support import SMALL, training_examples

ARMS: list[dict[str, Any]] = [
    {"name": "old", "preset": "din-10", "model": SMALL},
    {"name": "new", "preset": "sam-10", "model": SMALL},
    {"name": "wide", "preset": "mean-10", "model": {**SMALL, "item_dim": 8, "category_dim": 8}},
    {"name": "clicks", "preset": "popularity"},
    {"name": "few", "preset": "din-10", "model": SMALL, "optim": {"max_rows": 3}},
]


def settings(directory: Path, **trainer: Any) -> Settings:
    return convert({"arms": ARMS, "trainer": {"directory": str(directory), **trainer}})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Checkpoints of a trainer that had the arm `old` alone."""
    found = Training(settings(tmp_path, arms=["old"]), device="cpu")
    found.learn(training_examples("old"))
    arms = {name: arm.save() for name, arm in found.arms.items()}
    saved = Checkpoint(7, {0: 12, 3: 4}, arms, found.seen.to_array(), {"samples": 24}, {0: "origin"})
    checkpoint.save(tmp_path, saved)
    return tmp_path


def test_only_the_new_arm_is_new(directory: Path) -> None:
    before = checkpoint.load_newest(directory).checkpoint
    path, started = add_arm(settings(directory), "new", "old")
    found = checkpoint.load_newest(directory)
    after = found.checkpoint
    assert before is not None
    assert after is not None
    assert found.path == path
    assert started.rows.keys() == {"item", "category"}
    assert after.arms.keys() == {"old", "new"}
    assert (after.epoch, after.offsets, after.counts, after.origins) == (
        7,
        before.offsets,
        before.counts,
        {0: "origin"},
    )
    assert after.seen.tobytes() == before.seen.tobytes()
    old = before.arms["old"]
    assert {name: each.tobytes() for name, each in after.arms["old"].tensors.items()} == {
        name: each.tobytes() for name, each in old.tensors.items()
    }
    training = Training(settings(directory, arms=["new"]), device="cpu")
    training.arms["new"].resume(after.arms["new"])
    assert training.arms["new"].learner.rows == started.rows
    assert training.arms["new"].metrics.total().samples == 0


@pytest.mark.parametrize(
    ("name", "source", "trainer", "says"),
    [
        ("new", "nobody", {}, "no arm 'nobody'.*they have old, new, wide.*share=0"),
        ("nobody", "old", {}, "no arm 'nobody'"),
        ("new", "wide", {}, "arm 'wide' has no checkpoint in .*; it has old"),
        ("old", "old", {}, "arm 'old' is in checkpoint .* already.*choose a name"),
        ("clicks", "old", {}, "nothing that arm 'old' has learned fits arm 'clicks'"),
        ("few", "old", {}, "arm 'few' cannot take over.*max_rows is 3: allow"),
        ("new", "old", {"arms": ["old"]}, "does not train arm 'new': add it to trainer.arms"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    directory: Path, name: str, source: str, trainer: dict[str, Any], says: str
) -> None:
    before = sorted(directory.iterdir())
    with pytest.raises(TrainerError, match=says):
        add_arm(settings(directory, **trainer), name, source)
    assert [path for path in sorted(directory.iterdir()) if path.name != "lock"] == before


def test_a_running_trainer_is_not_disturbed(directory: Path) -> None:
    with (
        checkpoint.sole_writer(directory),
        pytest.raises(CheckpointError, match=r"another trainer works in .*: stop it \(SIGTERM.*run this again"),
    ):
        add_arm(settings(directory), "new", "old")


def test_without_checkpoints_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=f"no checkpoints in {re.escape(str(tmp_path / 'none'))}"):
        add_arm(settings(tmp_path / "none"), "new", "old")
    assert not (tmp_path / "none").exists()


def test_the_command_names_what_is_taken_over_and_what_is_new(
    directory: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path_factory.mktemp("config") / "settings.toml"
    config.write_text(
        f"trainer.directory = '{directory}'\n"
        "[[arms]]\nname = 'old'\npreset = 'din-10'\nmodel = {item_dim = 4, category_dim = 4, statistics = []}\n"
        "[[arms]]\nname = 'new'\npreset = 'sam-10'\nmodel = {item_dim = 4, category_dim = 4, statistics = []}\n"
    )
    assert main(["arms", "init", "--from", "old", "--to", "new", "--config", str(config)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"table item: \d+ rows of old", told)
    assert re.search(r"taken over in part: head\.0\.weight, 27 of \d+ inputs", told)
    assert "new, as in an arm that has not learned: interest.attentions.0.first.weight" in told
    assert "only old has: interest.attention.first.weight" in told
    assert f"arm new is in {directory}/00000002: start the trainer" in told
    assert main(["arms", "init", "--from", "old", "--to", "new", "--config", str(config)]) == 1
    assert "samstream arms: arm 'new' is in checkpoint" in capsys.readouterr().err
