"""An arm that is new beside one that has learned: it begins warm, and both are served and learned."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from model.serialization.checkpoint import load_newest
from stream.cli.main import main
from stream.schema.topics import Topics
from stream.settings import Settings, convert
from stream.trainer.arm_trainer import ArmTrainer
from tests.e2e.harness import LENGTH, Harness, wait_for

pytestmark = pytest.mark.broker

SMALL = {"item_dim": 4, "category_dim": 4}
OLD = {"name": "old", "preset": f"din-{LENGTH}", "model": SMALL}
NEW = {"name": "new", "preset": f"sam-{LENGTH}", "model": SMALL}


def rows(settings: Settings, directory: Path, name: str) -> dict[str, int]:
    """Return the rows of an arm in the newest checkpoint, as a trainer takes it up."""
    found = load_newest(directory).checkpoint
    assert found is not None
    [arm] = [arm for arm in settings.arms if arm.name == name]
    trainer = ArmTrainer(arm, settings, device="cpu")
    trainer.resume(found.arms[name])
    return trainer.learner.rows


def test_a_new_arm_begins_with_what_another_has_learned_and_both_are_served(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Shares are by name, so those who are not moved to the new arm keep theirs.
    with Harness(kafka, topics, topic_prefix, tmp_path, arms=[OLD]) as harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker-1", instance="one")
        harness.wander(500)
        harness.traffic(40)
        wait_for(lambda: harness.trained() > 0, "a checkpoint with samples", processes=harness.processes)
        config = tmp_path / "settings.json"
        both = f"arms=[{_toml(OLD)}, {_toml(NEW)}]"
        command = ("arms", "init", "--from", "old", "--to", "new", "--config", str(config), "--set", both)
        assert main(command) == 1
        assert "another trainer works in" in capsys.readouterr().err
        harness.end("trainer")
        assert main(command) == 0
        assert "table item:" in capsys.readouterr().out
        checkpoints = tmp_path / "checkpoints"
        settings = convert({"arms": [OLD, NEW]})
        warm = rows(settings, checkpoints, "new")
        assert warm == rows(settings, checkpoints, "old")
        assert min(warm.values()) > 0
        harness.end("worker-1")
        harness.processes.start("trainer-2", "trainer", "--set", both)
        harness.start_worker("worker-2", "--set", both, instance="one")

        def both_fresh() -> bool:
            harness.traffic(10)
            return {"old", "new"} <= {score.arm for score in harness.answers.values() if score.version > 0}

        wait_for(both_fresh, "answers of both arms with what they have learned", processes=harness.processes)
        harness.settle()
        log = harness.processes.log("trainer-2").read_text()
        assert "arms=old,new epoch=2 resumed=True" in log
        assert "update_refused" not in harness.processes.log("worker-2").read_text()


def _toml(arm: Mapping[str, object]) -> str:
    return f"{{name = '{arm['name']}', preset = '{arm['preset']}', model = {{item_dim = 4, category_dim = 4}}}}"
