"""A shadow arm as a user runs it: scored for every impression, shown to nobody, and its click rate estimated."""

import json
from pathlib import Path

import pytest

from tests.e2e.commands import run

FILE = """
name = "shadow"
salt = "shadow-1"
alpha = 0.1

[[arms]]
name = "mean"
preset = "mean"
length = 30
learn = false
shadow = true

[[arms]]
name = "counts"
preset = "counts-20"
learn = false
shadow = true

[[arms]]
name = "again"
preset = "mean"
length = 30
learn = false
share = 0
shadow = true
"""


@pytest.mark.slow
@pytest.mark.broker
def test_a_shadow_that_ranks_as_a_serving_arm_has_that_arms_estimate(
    kafka: dict[str, str], topic_prefix: str, tmp_path: Path
) -> None:
    address, scratch, file = kafka["bootstrap.servers"], tmp_path / "scratch", tmp_path / "experiment.toml"
    file.write_text(FILE)
    mine = [f"topics.prefix={topic_prefix}", f"worker.group={topic_prefix}w", f"monitor.group={topic_prefix}m"]
    quicker = ("worker.attribution_window_s=4", "worker.allowed_lateness_s=0.2", "worker.idle_timeout_s=1")
    flags = [flag for setting in (*mine, *quicker) for flag in ("--set", setting)]
    done = run(
        "experiment", "run", file, "--seconds", "8", "--rate", "40", "--users", "200", "--history", "30", "--plain",
        "--no-monitor", "--no-gateway", *flags, "--broker", address, "--report", tmp_path / "report",
        scratch=scratch, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    arms = json.loads((tmp_path / "report" / "report.json").read_text())["arms"]
    assert arms["again"]["impressions"] == 0
    assert arms["mean"]["impressions"] > 0

    where = ("--bootstrap", address, *flags[:2])
    done = run("experiment", "evaluate", file, *where, "--arm", "again", "--arm", "mean", "--json", scratch=scratch)
    assert done.returncode == 0, done.stdout + done.stderr
    again, mean = json.loads(done.stdout)
    assert again.pop("arm") == "again"
    assert mean.pop("arm") == "mean"
    assert again == mean
    assert again["impressions"] == arms["mean"]["impressions"] + arms["counts"]["impressions"]
    assert (again["incomplete"], again["unsupported"], again["clipped"]) == (0, 0, 0)
    assert again["ips"][1] < arms["mean"]["ctr"] < again["ips"][2]

    done = run("experiment", "evaluate", file, *where, "--clicks", "item", "--since", "1s", scratch=scratch)
    assert done.returncode == 1
    assert "again: no estimate: no impression says what again, counts, mean would each have shown" in done.stderr
    done = run("experiment", "evaluate", file, *where, "--arm", "nobody", scratch=scratch)
    assert "--arm nobody: the arms with a model are mean, counts, again" in done.stderr
