"""`bench ranks` runs, and measures what it claims."""

import json
from pathlib import Path

import pytest

from stream.cli.main import main


@pytest.mark.slow
def test_a_quick_run_measures_one_and_two_ranks_and_what_they_exchange(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "ranks", "--quick", "--json", f"{tmp_path}/a.json", "--plot", f"{tmp_path}/a.png"]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "a.json").read_bytes())
    rows = {(row["preset"], row["ranks"]): row for row in found["results"]}
    assert rows.keys() == {(kind, ranks) for kind in ("sam-30", "mean-30") for ranks in (1, 2)}
    for (_, ranks), row in rows.items():
        assert row["samples/s"] == pytest.approx(ranks * 20 / row["ms a step"] * 1000)
        assert (row["KB a step"] > 0) == (ranks == 2)
        assert row["CPU ms"] > 0
    gains = {target["name"]: target["value"] for target in found["targets"]}
    for kind in ("sam-30", "mean-30"):
        gain = rows[kind, 2]["samples/s"] / rows[kind, 1]["samples/s"]
        assert gains[f"samples/s, 2 ranks / 1, {kind}"] == pytest.approx(gain)
    assert "picture" in capsys.readouterr().out
