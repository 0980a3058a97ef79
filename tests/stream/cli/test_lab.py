"""`samstream lab`: both experiments run in the small, and leave figures that fit one another, and a picture."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from stream.cli.main import main
from stream.lab.arms import ORDER, RUNS, run_arms
from stream.lab.freshness import NEVER
from stream.lab.script import Scenario
from stream.simulation.config import WorldConfig


def found(name: str, directory: Path) -> dict[str, Any]:
    figures, picture = directory / "a.json", directory / "a.png"
    assert main(["lab", name, "--quick", "--json", str(figures), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    content: dict[str, Any] = json.loads(figures.read_bytes())
    return content


@pytest.mark.slow
def test_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = found("arms", tmp_path)["tables"]
    arms = {row["arm"]: row for row in tables["arms"]}
    assert tuple(arms) == ORDER
    assert {name for variants in RUNS.values() for name, _ in variants} == set(ORDER)
    for row in arms.values():
        assert row["CTR low"] < row["CTR"] < row["CTR high"]
        assert 0 <= row["regret"] < 1
    assert arms["oracle"]["regret"] == 0
    assert arms["oracle"]["CTR"] == max(row["CTR"] for row in arms.values())
    assert arms["random"]["log loss, shown"] is None
    answers = next(rows for title, rows in tables.items() if title.startswith("answers"))
    for row in answers:
        ratio = arms[row["arm"]]["CTR"] / arms[row["against"]]["CTR"]
        assert row["lift"] == pytest.approx(ratio - 1)
        assert row["lift low"] < row["lift"] < row["lift high"]
    assert "+7.30%" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.long
def test_position(tmp_path: Path) -> None:
    content = found("position", tmp_path)
    assert "position_bias=1" in content["notes"][0]
    for rows in content["tables"].values():
        arms = {row["arm"]: row for row in rows}
        assert set(arms) == {"din-50, not told", "din-50, told", "random", "oracle"}
        assert arms["din-50, not told"]["lift"] == 0 == arms["oracle"]["regret"]
        assert arms["din-50, told"]["AUC, all"] != arms["din-50, not told"]["AUC, all"]
        assert arms["random"]["regret"] > 0


@pytest.mark.slow
def test_freshness(tmp_path: Path) -> None:
    content = found("freshness", tmp_path)
    (rows,) = content["tables"].values()
    assert rows[-1]["updates every"] == NEVER
    assert rows[-1]["lift over never"] == 0
    for row in rows:
        assert row["lift over never"] == pytest.approx(row["CTR"] / rows[-1]["CTR"] - 1)
    assert any("baskets" in note for note in content["notes"])


def test_a_folder_without_the_data_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "freshness", "--data", str(tmp_path)]) == 1
    assert "events.tsv.xz" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_side_by_side_find_the_same_as_one() -> None:
    world = WorldConfig(users=20, history=40, categories=8, items_per_category=5, interests=2, candidates=10)
    scenario = Scenario(world=world, rate=5.0, warm_up_s=10.0, measured_s=10.0, slots=3)
    kinds = {kind: RUNS[kind] for kind in ("popularity", "random")}
    alone, beside = (run_arms(scenario, 1, 2, Console(file=io.StringIO()), processes, kinds) for processes in (1, 2))
    for one, two in zip(alone, beside, strict=True):
        assert one.keys() == two.keys() == {"popularity", "random"}
        for name, arm in one.items():
            assert np.array_equal(arm.order, two[name].order)
    assert not np.array_equal(alone[0]["random"].order[:5], alone[1]["random"].order[:5]), "two worlds, not one twice"
