"""`bench scoring` runs, and its figures are consistent."""

import json
from pathlib import Path

import pytest

from model.interest.options import Sam
from model.spec import preset
from stream.bench.harness import scoring_gpu
from stream.cli.main import main


def test_a_quick_run_measures_both_sides_and_leaves_figures_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "scoring", "--quick", "--json", f"{tmp_path}/a.json", "--plot", f"{tmp_path}/a.png"]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "a.json").read_bytes())
    assert {row["users"] for row in found["results"]} == {1, 16}
    for row in found["results"]:
        assert row["served ms"] > 0
        if row["users"] == 1:
            assert row["times"] == pytest.approx(row["literal ms"] / row["served ms"])
    missing = [target["name"] for target in found["targets"] if target["value"] is None]
    if scoring_gpu.measure(preset("sam"), (1, 1, 1), 0.01) is None:
        assert missing == ["candidates scored on a GPU, 1000 behaviours, bf16"]
        assert "not measured" in capsys.readouterr().out
    else:
        assert not missing


def test_the_side_of_the_gpu_counts_what_it_says_and_sees_a_deviation() -> None:
    found = scoring_gpu.measure(preset("sam"), (2, 3, 20), 0.01, device="cpu")
    assert found is not None
    assert found["fp32"].deviation < 1e-5 < found["bf16"].deviation < 0.05
    for each in found.values():
        assert each.candidates == 6
        assert each.sigmoids == Sam().passes * 6 * 20 * 9
        assert f"{each.millions:.2f} million candidates/s" in str(each)
