"""`bench scoring` runs, and leaves figures that fit one another, and a picture."""

import json
from pathlib import Path

import pytest

from stream.cli import main


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
    assert missing == ["candidates scored on a GPU, 1000 behaviours, bf16"]
    assert "not measured" in capsys.readouterr().out
