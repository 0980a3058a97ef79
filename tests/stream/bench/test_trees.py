"""`bench trees`: LightGBM learns from what the arms read, and a worker that serves it gives the same answers."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model.spec import preset
from stream.bench.harness.load import load_settings
from stream.bench.harness.peer_table import TableMaker
from stream.bench.harness.trees import SETTINGS, BoostedTrees, ServedTrees
from stream.cli.main import main
from stream.datasets import open_dataset
from stream.experiment.statistics.auc import clustered_auc
from stream.local.broker import Broker
from stream.validation.contest import Contestant, contest, judge, list_batches
from tests.stream.bench.baskets import write_baskets

QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_baskets(tmp_path_factory.mktemp("baskets"))


def test_without_columns_of_users_a_table_has_what_arm_counts_reads(folder: Path) -> None:
    dataset = open_dataset("complete-journey", folder)
    batch = [example for _, example in next(list_batches(dataset, 3))]
    whole, counted = TableMaker(), TableMaker(of_users=False)
    assert counted.user_columns == 0
    found = counted.table(batch).numbers
    np.testing.assert_array_equal(found, whole.table(batch).numbers[:, whole.user_columns :])
    assert found.shape[1] > preset("counts").numbers, "matches, then statistics"


@pytest.mark.parametrize("name", SETTINGS)
def test_trees_learn_and_are_served_as_they_were_fitted(name: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightgbm", reason="needs pip install 'samstream[peers]'")
    dataset = open_dataset("complete-journey", folder)
    trees = BoostedTrees(dataset.totals.samples, (), SETTINGS[name], of_users=False)
    one = Contestant(trees)
    samples = contest(dataset, {name: one}, dataset.totals.visits, QUIET)
    predicted = np.concatenate(one.predictions)
    assert clustered_auc(samples.labels, predicted.astype(np.float64), samples.users).value > 0.55
    assert 0.3 < judge(samples, {name: predicted}, name)[name].ndcg < 1
    assert 0 < trees.fit_cpu_s <= one.cpu_s
    batch = [example for batch in list_batches(dataset, dataset.totals.visits) for _, example in batch][-5:]
    trees.save(tmp_path / "trees.txt")
    served = ServedTrees(tmp_path / "trees.txt", SETTINGS[name])
    together = served.score(batch)
    assert [len(each) for each in together] == [len(example.items) for example in batch]
    for example, scores in zip(batch, together, strict=True):
        np.testing.assert_array_equal(served.score([example])[0], scores)
        assert ((scores > 0) & (scores < 1)).all()
    assert len(np.unique(np.concatenate(together))) > 5
    assert served.score([]) == []


def test_what_was_never_fitted_cannot_be_saved(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm", reason="needs pip install 'samstream[peers]'")
    with pytest.raises(ValueError, match="nothing was fitted"):
        BoostedTrees(100).save(tmp_path / "trees.txt")


def test_without_lightgbm_the_command_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert main(["bench", "trees", "--quick", "--data", str(folder)]) != 0
    assert "pip install 'samstream[peers]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_arms_and_trees_behind_the_same_worker(folder: Path, tmp_path: Path, broker: Broker) -> None:
    pytest.importorskip("lightgbm", reason="needs pip install 'samstream[peers]'")
    out, plot = tmp_path / "a.json", tmp_path / "a.png"
    words = ["bench", "trees", "--quick", "--data", str(folder), "--broker", broker.bootstrap]
    assert main([*words, "--json", str(out), "--plot", str(plot)]) == 0
    rows = {row["ranker"]: row for row in json.loads(out.read_bytes())["results"]}
    assert set(rows) == {"sam", "counts", *SETTINGS}
    for name, row in rows.items():
        assert 0 < row["p50, ms"] <= row["p99, ms"]
        assert row["worker, CPU ms"] > 0
        assert (row["NE"] is None) == (name in SETTINGS and SETTINGS[name].ranks)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_system_under_load_has_the_arm_that_is_asked_for_and_settings_of_its_own() -> None:
    settings = load_settings("bench-1-", "counts", {"trainer": {"nice": 3}, "worker": {"idle_timeout_s": 9.0}})
    assert [(arm.name, settings.spec(arm).kind) for arm in settings.arms] == [("counts", "counts")]
    assert (settings.topics.prefix, settings.worker.group) == ("bench-1-", "bench-1-worker")
    assert (settings.trainer.nice, settings.worker.idle_timeout_s) == (3, 9.0)
    assert settings.worker.attribution_window_s == 5.0
