"""Guardrails in an experiment's file: what they mean, and what is refused."""

from pathlib import Path

import pytest

from stream.cli.main import main
from stream.errors import ExperimentError
from stream.experiment.plan import Experiment, ExperimentPlan, read

ARMS = 'name = "g"\nsalt = "g-1"\n[[arms]]\nname = "a"\n[[arms]]\nname = "b"\nlength = 50\n'


def plan(directory: Path, *guardrails: str) -> ExperimentPlan:
    path = directory / "experiment.toml"
    path.write_text(ARMS + "".join(f"[[guardrails]]\n{each}\n" for each in guardrails))
    return read(path)


def test_a_file_names_metrics_limits_and_their_direction(tmp_path: Path) -> None:
    found = plan(
        tmp_path,
        'metric = "latency_p99_ms"\nat_most = 50',
        'metric = "unanswered"\nat_most = 0.001',
        'metric = "calibration"\nat_least = 0.9',
        'metric = "action"\naction = "purchase"\nwithin_s = 600\nat_least = -0.05\nrelative_to = "b"',
    )
    assert [(each.name, each.limit_words) for each in Experiment.of(found).guardrails] == [
        ("share of answers slower than 50 ms", "at most 1%"),
        ("share of impressions without an answer", "at most 0.001"),
        ("predicted over real clicks", "at least 0.9"),
        ("purchase within 600 s, for each impression", "at least −5% against b"),
    ]


def test_check_says_what_they_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path, 'metric = "latency_p99_ms"\nat_most = 50')
    assert main(["experiment", "check", str(tmp_path / "experiment.toml")]) == 0
    assert "Guardrail: share of answers slower than 50 ms, at most 1%." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('metric = "unanswered"', "set either at_most or at_least"),
        ('metric = "calibration"\nat_most = 1.1\nat_least = 0.9', "set either at_most or at_least"),
        ('metric = "latency_p99_ms"\nat_least = 5', "more of it is worse: set at_most"),
        ('metric = "latency_p99_ms"\nat_most = 0.1\nrelative_to = "a"', "only unanswered and action can be relative"),
        ('metric = "action"\naction = "buy"\nat_least = -0.1\nrelative_to = "c"', "'c', which is not compared"),
        ('metric = "action"\naction = "buy"\nat_least = -1\nrelative_to = "a"', "a relative limit is above −1"),
        ('metric = "action"\naction = "buy"\nat_least = -0.1', "a limit is above 0"),
        ('metric = "unanswered"\nat_most = 1.5', "a share is below 1"),
        ('metric = "action"\nat_least = 0.1', "goes with action"),
        ('metric = "calibration"\nat_least = 0.1\naction = "buy"', "goes with action"),
        ('metric = "happiness"\nat_least = 0.1', "happiness"),
    ],
)
def test_what_cannot_be_judged_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        plan(tmp_path, text)
