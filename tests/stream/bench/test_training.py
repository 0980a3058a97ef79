"""`bench training` runs, and measures what it claims."""

import json
from pathlib import Path

import pytest

from stream.bench.training import stream_batches
from stream.cli.main import main


@pytest.mark.slow
def test_a_quick_run_measures_both_sides_memory_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "training", "--quick", "--json", f"{tmp_path}/a.json", "--plot", f"{tmp_path}/a.png"]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "a.json").read_bytes())
    steps = {(row["what"], row["side"]): row for row in found["results"] if row["samples/s"] is not None}
    assert len(steps) == 6
    for (what, side), row in steps.items():
        samples = {"step, 1 requests": 10, "step, 4 requests": 40, "step, 4 records, mixed": 18}[what]
        assert row["samples/s"] == pytest.approx(samples / row["ms"] * 1000)
        assert row["peak MB"] is None or row["peak MB"] >= 0, side
    ratios = {target["name"]: target["value"] for target in found["targets"]}
    for what, ratio in ratios.items():
        if what.startswith("literal / learner, "):
            name = f"step, {what.removeprefix('literal / learner, ')}"
            assert ratio == pytest.approx(steps[name, "literal"]["ms"] / steps[name, "learner"]["ms"])
    assert ratios["table step, 2,000 rows / 500"] > 0
    assert "picture" in capsys.readouterr().out


def test_a_mixed_batch_has_single_clicks_and_the_other_items_of_requests() -> None:
    for batch in stream_batches(32, 5):
        assert sorted(len(each.items) for each in batch) == [1] * 20 + [8] * 12
