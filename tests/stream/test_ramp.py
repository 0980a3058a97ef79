"""Shares by schedule: which are in force when, who moves, and what is refused."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.cli.experiment_report import in_stage
from stream.cli.main import main
from stream.errors import ExperimentError, SettingsError
from stream.experiment.assignment import Assignment
from stream.experiment.plan import ExperimentPlan, read
from stream.monitor.users import UserCounter, experiment_id
from stream.schema.events import Outcome
from stream.settings import Settings, convert, load

FILE = """
name = "ramp"
salt = "ramp-1"

[[arms]]
name = "old"
share = 1

[[arms]]
name = "new"
share = 0
length = 50

[[ramp]]
at = 2026-03-02T00:00:00Z
shares = { new = 0.05 }

[[ramp]]
at = 2026-03-05T00:00:00+01:00
shares = { new = 1 }
"""
FIRST, SECOND = 1_772_409_600_000, 1_772_665_200_000
USERS = [f"u{number}" for number in range(5000)]


def planned(directory: Path, text: str = FILE) -> ExperimentPlan:
    path = directory / "experiment.toml"
    path.write_text(text)
    return read(path)


def test_the_shares_in_force_follow_from_the_time(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert [(stage.begin, stage.end, stage.shares) for stage in plan.stages] == [
        (-math.inf, FIRST, {"old": 1, "new": 0}),
        (FIRST, SECOND, {"old": 1, "new": 0.05}),
        (SECOND, math.inf, {"old": 1, "new": 1}),
    ]
    assert [plan.at(ts).shares["new"] for ts in (0, FIRST - 1, FIRST, SECOND - 1, SECOND)] == [
        0, 0, 0.05 / 1.05, 0.05 / 1.05, 0.5
    ]  # fmt: skip
    assert plan.ramped == plan.at(SECOND)


def test_users_only_move_into_the_arm_that_grows(tmp_path: Path) -> None:
    arms = [Assignment(stage.shares, salt="ramp-1") for stage in planned(tmp_path).stages]
    courses = {tuple(assignment.arm(user) for assignment in arms) for user in USERS}
    assert courses == {("old", "old", "old"), ("old", "old", "new"), ("old", "new", "new")}


def test_printed_settings_have_the_ramp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path)
    assert main(["experiment", "settings", str(tmp_path / "experiment.toml")]) == 0
    (config := tmp_path / "settings.json").write_text(capsys.readouterr().out)
    settings = load(config, environ={})
    assert settings.ramp == plan.ramp
    assert settings.stages == plan.stages
    assert settings.at(SECOND).arms[1].share == 1
    assert settings.at(SECOND).ramp == ()


def test_check_says_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned(tmp_path)
    assert main(["experiment", "check", str(tmp_path / "experiment.toml")]) == 0
    printed = capsys.readouterr().out
    assert "At first: old 100.0%, new 0.0%." in printed
    assert "From 2026-03-02 00:00:00 UTC: old 95.2%, new 4.8%." in printed
    assert "for the last step" in printed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("2026-03-05T00:00:00+01:00", "2026-03-01T00:00:00Z"), "does not come after the step before it"),
        (("{ new = 1 }", "{ newest = 1 }"), "names arm 'newest'"),
        (("{ new = 1 }", "{ new = 0, old = 0 }"), "leaves no arm a share"),
        (("{ new = 1 }", "{ new = 0 }"), "fewer than two arms"),
        (("{ new = 1 }", "{ new = -1 }"), r"ramp\[1\]"),
        (("2026-03-02T00:00:00Z", "2026-03-02T00:00:00"), r"ramp\[0\]"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        planned(tmp_path, FILE.replace(*change))


def test_a_report_is_on_the_last_stage_before_its_end(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    experiment, since, before = in_stage(plan, None, None, now=SECOND / 1000 + 5)
    assert (since, experiment.shares, experiment.ramp) == (SECOND, {"old": 0.5, "new": 0.5}, ())
    assert before is not None
    assert {before.arm(user) for user in USERS} == {"old", "new"}
    assert in_stage(plan, SECOND + 7, None, now=SECOND)[1] == SECOND + 7
    experiment, since, before = in_stage(plan, 5, SECOND, now=SECOND)
    assert (since, experiment.shares["new"]) == (FIRST, 0.05 / 1.05)
    experiment, since, before = in_stage(plan, 5, FIRST, now=SECOND)
    assert (since, experiment.shares["new"], before) == (5, 0, None)


def test_a_step_begins_another_experiment_for_the_monitor_and_other_stages_do_not_count(tmp_path: Path) -> None:
    settings = convert(planned(tmp_path).settings())
    first, second, third = settings.stages
    plain = experiment_id(Settings(salt="ramp-1", experiment=settings.experiment))
    numbers = [experiment_id(settings, stage) for stage in (first, second, third)]
    assert len(set(numbers)) == 3
    assert numbers[0] == plain
    counter = UserCounter(numbers[1], None, lambda _: None, stage=second)
    for offset, (arm, ts) in enumerate((("old", FIRST - 1), ("new", FIRST), ("new", SECOND - 1), ("old", SECOND))):
        counter.add(offset, Outcome(f"r{offset}", "u", arm, ts, 1, 1, ["x"], [0], [0.5], [1]), [0])
    sums, rows = counter.closed(3)
    assert (rows["u"].arm, sum(shown for _, shown, _ in rows["u"].spans)) == ("new", 2)
    assert sums.spans.crossed == 0


def test_settings_refuse_a_ramp_that_cannot_be() -> None:
    steps: list[dict[str, Any]] = [{"at": "2026-03-02T00:00:00Z", "shares": {"sam": 0}}]
    with pytest.raises(SettingsError, match="leaves no arm a share"):
        convert({"ramp": steps})
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"at": "yesterday", "shares": {}}, type(planned_step()))


def planned_step() -> Any:
    """A step, for its type."""
    return convert({"ramp": [{"at": "2026-03-02T00:00:00Z", "shares": {}}]}).ramp[0]
