"""`bench scoring` runs, and says what it found."""

import json
from pathlib import Path

import pytest
import torch

from stream.cli import main


def test_a_quick_run_measures_both_sides_and_leaves_figures_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        code = main(["bench", "scoring", "--quick", "--json", f"{tmp_path}/a.json", "--plot", f"{tmp_path}/a.png"])
    finally:
        torch.set_num_threads(threads)
    assert code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "a.json").read_bytes())
    assert {row["users"] for row in found["results"]} == {1, 16}
    for row in found["results"]:
        assert row["times faster"] == pytest.approx(row["literal ms"] / row["factored ms"])
        assert row["GFLOP/s"] > 0
    targets = {target["name"]: target["value"] for target in found["targets"]}
    assert targets["16 users of mixed lengths together / one by one"] > 0
    assert "not measured" in capsys.readouterr().out
