"""Every benchmark runs at small sizes and leaves its rows, targets and picture."""

from pathlib import Path

import msgspec
import pytest

from stream.bench import BENCHES
from stream.cli import main


@pytest.mark.parametrize("name", [name for name in BENCHES if name in ("scoring", "training")])
def test_a_bench_leaves_rows_targets_and_a_picture(name: str, tmp_path: Path) -> None:
    figures, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    assert main(["bench", name, "--quick", "--json", str(figures), "--plot", str(plot)]) == 0
    found = msgspec.json.decode(figures.read_bytes())
    assert found["bench"] == name
    assert found["results"]
    assert found["targets"]
    assert all(row.keys() == found["results"][0].keys() for row in found["results"])
    assert plot.read_bytes().startswith(b"\x89PNG")
