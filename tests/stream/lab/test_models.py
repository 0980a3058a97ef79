"""`lab models`: all arms on the same samples, each by its options; a run that was stopped goes on."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.interest.options import KINDS
from model.learner import Learner
from model.spec import preset
from stream.cli.main import main
from stream.errors import SettingsError
from stream.lab import model_pass
from stream.lab.model_pass import ModelPass, Visits
from stream.lab.models import choose
from stream.validation.contest import judge
from tests.e2e.commands import write_baskets


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Visits:
    folder = tmp_path_factory.mktemp("models") / "baskets"
    write_baskets(folder, baskets=150)
    return Visits("complete-journey", folder, None, features=True)


@pytest.mark.long
def test_a_run_says_how_well_each_arm_ranks_and_what_it_costs(visits: Visits, tmp_path: Path) -> None:
    assert visits.data is not None
    found, picture, kept = tmp_path / "a.json", tmp_path / "a.png", tmp_path / "kept"
    arms = ("din", "mean:pool=false", "counts")
    arguments = ["--arms", ",".join(arms), "--data", str(visits.data), "--json", str(found), "--plot", str(picture)]
    assert main(["lab", "models", *arguments, "--processes", "1", "--lengths", "5,20", "--kept", str(kept)]) == 0
    figures = json.loads(found.read_bytes())["arms"]
    assert list(figures) == [f"{arm}-{length}" for arm in arms for length in (5, 20)]
    for name, each in figures.items():
        assert 0.3 < each["auc"] < 1
        assert {"gauc", "ne", "calibration", "ms_p50", "ms_p99", "samples_per_s", "parameters"} <= each.keys()
        assert each["ms_p50"] <= each["ms_p99"]
        assert (each["pure_auc"] is None) == name.startswith("counts")
        assert (each["ahead"] == 0) == name.startswith("din")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not kept.exists()


@pytest.mark.long
def test_an_arm_predicts_as_a_learner_of_its_own_does(visits: Visits, tmp_path: Path) -> None:
    [arm] = [each for each in choose(["sam:passes=3:match=false"], (20,), visits)[0] if each.name != "din"]
    result = ModelPass(arm.spec, visits, 3, tmp_path)(lambda _: None)
    assert arm.spec.interest.passes == 3  # type: ignore[union-attr]
    assert not arm.spec.match
    learner = Learner(arm.spec, seed=3)
    expected = [each for batch in visits.batches() for each in learner.learn([example for _, example in batch])]
    np.testing.assert_array_equal(result.predictions, np.concatenate(expected))
    samples = visits.samples()
    assert len(samples.labels) == len(result.predictions)
    assert judge(samples, {"a": result.predictions}, "a")["a"].ahead == 0


@pytest.mark.long
def test_a_policy_says_which_lengths_it_chose_and_what_a_visit_costs(visits: Visits, tmp_path: Path) -> None:
    found = {}
    for arm in choose(["sar"], (1000,), visits)[0]:
        found[arm.name] = ModelPass(arm.spec, visits, 0, tmp_path)(lambda _: None)
    assert all(each.visit_ms > 0 for each in found.values())
    assert np.isnan(found["din"].chosen)
    lengths = preset("sar").interest.lengths  # type: ignore[union-attr]
    assert lengths[0] <= found["sar"].chosen <= lengths[-1]


def test_a_run_that_was_stopped_takes_up_what_it_has_done(
    visits: Visits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ModelPass(preset("counts-20"), visits, 0, tmp_path)
    steps: list[int] = []
    before = done(lambda _: None)
    monkeypatch.setattr(model_pass, "Learner", None)
    after = done(steps.append)
    np.testing.assert_array_equal(before.predictions, after.predictions)
    assert (before.seconds, before.parameters, before.rows) == (after.seconds, after.parameters, after.rows)
    assert sum(steps) == visits.count
    with pytest.raises(TypeError):
        ModelPass(preset("counts-20"), visits, 1, tmp_path)(lambda _: None)


def test_every_kind_that_reads_histories_is_an_arm_unless_some_are_named(visits: Visits) -> None:
    arms, left_out = choose((), (1000,), visits)
    assert {arm.name for arm in arms} == KINDS.keys() - {"popularity", "random"}
    assert left_out == []


def test_kinds_that_cannot_read_so_few_are_left_out_and_told(visits: Visits) -> None:
    arms, left_out = choose((), (50,), visits)
    assert {"din", "sam"} <= {arm.name for arm in arms}
    assert "sar" not in {arm.name for arm in arms}
    assert any(note.startswith("sar is left out: ") for note in left_out)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bst", "no model preset is called 'bst'"),
        ("din:passes=3", "arm din:passes=3: .* of kind 'din' has no passes; it has: kind, attention_hidden"),
        ("sam:passes=x", "passes"),
        ("sam:length=0", "length"),
    ],
)
def test_what_cannot_be_compared_is_said(visits: Visits, name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        choose([name], (1000,), visits)
