"""An arm of a checkpoint as files for other servers: what a worker would serve, or why not."""

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from model.errors import CheckpointError, ExportError
from model.network import Network
from model.scorer import Scorer
from model.serialization import checkpoint
from model.serialization.checkpoint import Checkpoint
from model.spec import ModelSpec
from model.statistics.primary import STATISTICS, StatisticsPrimary
from stream.cli.main import main
from stream.errors import TrainerError
from stream.settings import Settings, convert
from stream.trainer.export_arm import export_arm
from stream.trainer.training import Training
from tests.model.export.host import Host
from tests.model.learning import examples
from tests.stream.trainer.support import SMALL, training_examples

ARMS: list[dict[str, Any]] = [
    {"name": "own", "preset": "mean-10", "model": SMALL},
    {"name": "counted", "preset": "counts-10"},
    {"name": "walks", "preset": "dien-10", "model": SMALL},
    {"name": "later", "preset": "mean-10", "model": SMALL},
]


def settings(directory: Path) -> Settings:
    return convert(
        {"arms": ARMS, "seed": 5, "trainer": {"directory": str(directory), "arms": ["own", "counted", "walks"]}}
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Training]:
    """Checkpoints, and the training that they are of."""
    directory = tmp_path_factory.mktemp("checkpoints")
    training = Training(settings(directory), device="cpu")
    for arm in training.arms:
        training.learn(training_examples(arm))
    arms = {name: arm.save() for name, arm in training.arms.items()}
    counts = StatisticsPrimary(settings(directory).half_lives_s, max_rows=100, retention_s=1e9)
    counts.fold(examples(1, seed=7)[0].sequence)
    arms[STATISTICS] = checkpoint.ArmState(counts.state(), {"offsets": {}, "origins": {}})
    checkpoint.save(directory, Checkpoint(3, {}, arms, training.seen.to_array()))
    return directory, training


@pytest.mark.long
def test_what_is_exported_is_what_a_worker_would_serve(saved: tuple[Path, Training], tmp_path: Path) -> None:
    directory, training = saved
    path, said = export_arm(settings(directory), "own", tmp_path / "out", "torch.export")
    assert path == directory / "00000001"
    assert (said["arm"], said["epoch"], said["version"]) == ("own", 0, 0)
    spec = msgspec.convert(said["model"], ModelSpec)
    scorer = Scorer(spec, seed=5)
    training.arms["own"].learner.begin_epoch(1)
    scorer.apply(training.arms["own"].learner.base("own"))
    host, run = Host(tmp_path / "out"), torch.export.load(tmp_path / "out" / "model.pt2").module()
    for each, expected in zip(examples(6, seed=9), scorer.score(examples(6, seed=9)), strict=True):
        np.testing.assert_allclose(run(host.inputs(each)).detach().numpy(), expected, atol=1e-5)


def test_statistics_of_the_checkpoint_are_exported(saved: tuple[Path, Training], tmp_path: Path) -> None:
    _, said = export_arm(settings(saved[0]), "counted", tmp_path / "out", "safetensors", saved[0] / "00000001")
    assert said["statistics"]["length"] == 10
    assert said["tensors"]["statistics.item/sums"][1][1:] == [1, 4]
    network = Network(msgspec.convert(said["model"], ModelSpec))
    assert network.state_dict().keys() == _names(tmp_path / "out" / "model.safetensors")


@pytest.mark.parametrize(
    ("arm", "checkpoint_name", "error", "says"),
    [
        ("nobody", None, TrainerError, "no arm 'nobody' with a model of its own; they have own, counted, walks, later"),
        ("later", None, TrainerError, r"arm 'later' is not in checkpoint .*00000001; it has own, counted, walks"),
        ("own", "00000009", CheckpointError, "No such file"),
        ("walks", None, ExportError, "kind 'dien' cannot be exported as a graph: it walks the sequence"),
    ],
)
def test_what_cannot_be_exported_says_why(
    saved: tuple[Path, Training], tmp_path: Path, arm: str, checkpoint_name: str | None, error: type, says: str
) -> None:
    path = saved[0] / checkpoint_name if checkpoint_name else None
    with pytest.raises(error, match=says):
        export_arm(settings(saved[0]), arm, tmp_path / "out", "torch.export", path)
    assert not list(tmp_path.iterdir())


def test_without_a_checkpoint_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=f"no whole checkpoint in {re.escape(str(tmp_path))}; name one"):
        export_arm(settings(tmp_path), "own", tmp_path / "out", "safetensors")


def test_an_arm_that_has_diverged_is_not_exported(tmp_path: Path) -> None:
    training = Training(settings(tmp_path), device="cpu")
    state = training.arms["own"].save()
    state.tensors["served/head.0.bias"][0] = np.nan
    checkpoint.save(tmp_path / "saved", Checkpoint(3, {}, {"own": state}, training.seen.to_array()))
    with pytest.raises(ExportError, match=r"arm 'own' has diverged in checkpoint .*: served/head\.0\.bias holds NaN"):
        export_arm(settings(tmp_path / "saved"), "own", tmp_path / "out", "safetensors")


@pytest.mark.long
def test_the_command_says_what_it_wrote(
    saved: tuple[Path, Training], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "settings.json"
    config.write_bytes(msgspec.json.encode(settings(saved[0])))
    command = [
        "export",
        "--config",
        str(config),
        "--arm",
        "own",
        "--format",
        "torch.export",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "arm own of" in told
    assert "behaviours (L): any number up to 10, candidates (C): any number" in told
    assert re.search(r"probabilities differ from the scorer's by at most \de-0\d", told)
    assert main(command) == 1
    assert "is there already: name a new folder" in capsys.readouterr().err


def _names(path: Path) -> set[str]:
    import safetensors.numpy

    return set(safetensors.numpy.load(path.read_bytes()))
