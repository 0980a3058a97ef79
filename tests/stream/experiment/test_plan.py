"""Experiments as files: what they say is what runs, what is wrong is named, and the needed users are enough."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.bench.harness.ab_tests import ABTests
from stream.cli.experiment import notes
from stream.cli.main import main
from stream.errors import ExperimentError, SettingsError
from stream.experiment.plan import ExperimentPlan, PlannedArm, UserAssumptions, read
from stream.experiment.power import required_sample_sizes
from stream.experiment.statistics.confidence_sequence import mixture_scale, p_value
from stream.experiment.statistics.effect import compare
from stream.settings import load

GOOD = """
name = "long-memory"
salt = "long-memory-1"
minimum_effect = 0.05

[[arms]]
name = "sam"
share = 9
length = 500
optim = { dense_lr = 0.002 }

[[arms]]
name = "frozen"
preset = "din-50"
learn = false

[crowd]
rate = 0.12
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "experiment.toml"
    path.write_text(text)
    return path


def test_a_file_is_what_the_settings_become(tmp_path: Path) -> None:
    experiment = read(written(tmp_path, GOOD))
    assert experiment.shares == {"sam": 0.9, "frozen": 0.1}
    assert (experiment.metric, experiment.alpha, experiment.crowd.rate) == ("ctr", 0.05, 0.12)
    sam, frozen = (arm.settings() for arm in experiment.arms)
    assert (sam.spec().length, frozen.spec().length) == (500, 50)
    assert sam.optim.dense_lr == 0.002
    assert (frozen.learn, frozen.share) == (False, 1.0)


def test_printed_settings_are_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, GOOD)
    assert main(["experiment", "settings", str(path)]) == 0
    config = tmp_path / "settings.json"
    config.write_text(capsys.readouterr().out)
    settings = load(config, environ={})
    assert settings.salt == "long-memory-1"
    assert (settings.experiment.name, settings.experiment.minimum_effect) == ("long-memory", 0.05)
    assert settings.experiment.alpha == read(path).alpha
    assert settings.arms == tuple(arm.settings() for arm in read(path).arms)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("minimum_effect", "minimal_effect"), "minimal_effect"),
        (("length = 500", "lenght = 500"), r"lenght.*arms\[0\]"),
        (("learn = false", "model = { items = 3 }"), "frozen.*items"),
        (("din-50", "dim-50"), "frozen"),
        (('name = "frozen"', 'name = "sam"'), "distinct names"),
        (("share = 9", "share = 0"), "fewer than two arms"),
        (("share = 9", 'share = "9"'), r"share|arms\[0\]"),
        (("rate = 0.12", "rate = 1.2"), "crowd.rate"),
        (("length = 500", "length = 500\nmodel = { length = 400 }"), "length twice"),
        (("salt =", "salt"), "line 3"),
        (('salt = "long-memory-1"', ""), "salt"),
        (("minimum_effect = 0.05", 'metric = "revenue"'), "metric"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = written(tmp_path, GOOD.replace(*change))
    with pytest.raises(ExperimentError, match=says) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


def test_what_settings_and_file_leave_out_is_the_same() -> None:
    chosen = ExperimentPlan(name="e", salt="s", arms=(PlannedArm(name="a"), PlannedArm(name="b")))
    unsaid = load(environ={}).experiment
    assert (unsaid.minimum_effect, unsaid.alpha) == (chosen.minimum_effect, chosen.alpha)


@pytest.mark.parametrize("value", ["alpha=0.6", "alpha=0", "minimum_effect=0", "name=''", "power=0.8"])
def test_an_experiment_that_cannot_be_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match=r"experiment"):
        load(environ={}, overrides=[f"experiment.{value}"])


def test_a_file_that_is_not_there_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "check", "nowhere.toml"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("samstream experiment: nowhere.toml: ")
    assert error.count("\n") == 1


def test_check_says_arms_users_and_what_may_not_be_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "check", str(written(tmp_path, GOOD))]) == 0
    said = capsys.readouterr().out
    for word in (
        "sam",
        "90.0%",
        "500",
        "din-50",
        "long-memory-1:ARM:USER",
        "lift of 5%",
        "12% to 12.6%",
        "impressions",
    ):
        assert word in said
    assert "frozen never learns" in said
    assert "the share of frozen is small" in said


def experiment(*arms: PlannedArm, **fields: object) -> ExperimentPlan:
    chosen = arms or (PlannedArm(name="a"), PlannedArm(name="b", preset="din"))
    return msgspec.structs.replace(ExperimentPlan(name="e", salt="s", arms=chosen), **fields)


def test_notes_tell_twins_and_arms_that_are_off() -> None:
    said = list(notes(experiment(PlannedArm(name="a"), PlannedArm(name="b"), PlannedArm(name="off", share=0))))
    assert any("a and b are identical" in note for note in said)
    assert any("off has no share" in note for note in said)
    assert list(notes(experiment())) == []


def test_users_that_one_look_needs_are_the_textbooks() -> None:
    """Without likeness: z-test of two proportions, on the logarithm; z 1.96 and 0.8416."""
    crowd = UserAssumptions(rate=0.1, slots=1, visits=1, icc=0)
    _, once = required_sample_sizes(experiment(minimum_effect=0.1, crowd=crowd))
    per_arm = 2 * 0.9 / 0.1 * ((1.959964 + 0.841621) / math.log(1.1)) ** 2
    assert once.users == pytest.approx(2 * per_arm, rel=1e-4)


def test_more_is_needed_for_smaller_effects_more_arms_uneven_shares_and_users_that_are_alike() -> None:
    base = required_sample_sizes(experiment())[0].users
    assert required_sample_sizes(experiment(minimum_effect=0.025))[0].users == pytest.approx(4 * base, rel=0.05)
    three = [PlannedArm(name=name) for name in "abc"]
    assert required_sample_sizes(experiment(*three))[0].users > 1.5 * base
    assert required_sample_sizes(experiment(PlannedArm(name="a", share=9), PlannedArm(name="b")))[0].users > 2.5 * base
    assert required_sample_sizes(experiment(crowd=UserAssumptions(icc=0.1)))[0].users > 3 * base
    anytime, once = required_sample_sizes(experiment())
    assert 1.3 < anytime.users / once.users < 2.5


@pytest.mark.long
def test_the_users_that_are_said_to_be_needed_find_the_effect() -> None:
    crowd = UserAssumptions(rate=0.1, slots=10, visits=10, icc=0.05)
    planned = experiment(minimum_effect=0.2, crowd=crowd)
    need = required_sample_sizes(planned)[0]
    looks = 40
    worlds = ABTests(
        worlds=200, users=need.users, looks=looks, every=round(need.impressions / looks), icc=0.05, activity_sd=0.0,
        lift=0.2,
    )  # fmt: skip
    effect = compare(*worlds.draw(11)).log_ratio
    found = p_value(effect.value, effect.variance, mixture_scale(math.log1p(0.2), 0.05)) <= 0.05
    assert 0.72 < np.mean(found[:, -1]) < 0.92, "at the last look"
    assert 0.78 < np.mean(found.any(axis=1)) < 0.95, "at any look until then"


INTERLEAVED = """
name = "mixed"
salt = "mixed-1"

[[arms]]
name = "sam"
share = 0

[[arms]]
name = "din"
preset = "din-50"
share = 0

[[arms]]
name = "sam-vs-din"
interleave = ["sam", "din"]
"""


def test_a_file_may_interleave_and_compare_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, INTERLEAVED)
    assert main(["experiment", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "Users of sam-vs-din see lists interleaved from those of sam and din (team draft)." in said
    assert "serves no users" not in said
    assert "serves only interleaved lists, in sam-vs-din" in said
    assert main(["experiment", "settings", str(path)]) == 0
    config = tmp_path / "settings.json"
    config.write_text(capsys.readouterr().out)
    assert load(config, environ={}).arms[2].interleave == ("sam", "din")


def test_users_of_an_interleaved_arm_count_for_no_other(tmp_path: Path) -> None:
    even = INTERLEAVED.replace("share = 0", "share = 1")
    both = required_sample_sizes(read(written(tmp_path, even)))[0].users
    without = required_sample_sizes(read(written(tmp_path, even.split('[[arms]]\nname = "sam-vs-din"')[0])))[0].users
    assert both == pytest.approx(1.5 * without, rel=0.001)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('interleave = ["sam", "din"]', 'interleave = ["sam", "dim"]'), "'dim'"),
        (('interleave = ["sam", "din"]', 'interleave = ["sam", "din"]\nlength = 50'), "drop model"),
        (('interleave = ["sam", "din"]', 'interleave = ["sam", "din"]\nshare = 0'), "no arm has a share"),
    ],
)
def test_what_cannot_be_interleaved_is_named_with_the_file(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        read(written(tmp_path, INTERLEAVED.replace(*change)))
