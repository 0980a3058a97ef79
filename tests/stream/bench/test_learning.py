"""`bench learning`: all see the same samples, nothing of a visit's outcome, and what is not installed is said."""

import importlib.util
import io
import json
import lzma
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model.example import Example
from model.interest.baselines import PRIOR
from model.predict import Predictions
from stream.bench.harness.rankers import DecayedPopularity, table
from stream.bench.learning import BATCH, Contestant, contest, list_batches
from stream.cli.main import main
from stream.datasets import open_dataset
from stream.datasets.base import Dataset, Visit

QUIET = Console(file=io.StringIO())
DAY = 86_400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 baskets of 20 households within 40 days; each household has items that it buys again and again."""
    rng, directory = np.random.default_rng(5), tmp_path_factory.mktemp("baskets")
    rows = []
    for basket in range(400):
        user = int(rng.integers(20))
        items = {int(item) for item in rng.integers(0, 30, 2)} | {user, (7 * user) % 30}
        rows += [(user, item, basket * DAY // 10, basket) for item in sorted(items)]
    with lzma.open(directory / "events.tsv.xz", "wt", encoding="utf-8") as out:
        out.write("user_id\titem_id\ttimestamp\tbasket_id\n")
        out.writelines("\t".join(map(str, row)) + "\n" for row in rows)
    with lzma.open(directory / "items.tsv.xz", "wt", encoding="utf-8") as out:
        out.write("product_id\tproduct_type\n")
        out.writelines(f"{item}\tkind-{item % 4}\n" for item in range(30))
    return directory


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_dataset("complete-journey", folder)


class Recorder:
    """A ranker that keeps what it is given, and whether it had seen it before it predicted."""

    def __init__(self) -> None:
        self.seen: list[Example] = []

    def learn(self, examples: Sequence[Example]) -> Predictions:
        self.seen += examples
        return [np.full(len(example.items), 0.2, np.float32) for example in examples]


def test_all_go_through_the_same_samples_and_are_judged_on_the_last_ones(dataset: Dataset) -> None:
    contestants = {name: Contestant(Recorder()) for name in ("a", "b")}
    visits = dataset.totals.visits
    samples = contest(dataset, contestants, visits, QUIET)
    seen = [contestant.ranker.seen for contestant in contestants.values()]  # type: ignore[attr-defined]
    assert seen[0] == seen[1]
    assert len(seen[0]) == visits
    assert len(samples.labels) == dataset.totals.samples == sum(len(example.items) for example in seen[0])
    assert samples.labels.sum() == dataset.totals.positives
    asked = [step.impression for step in dataset.steps() if isinstance(step, Visit)]
    first = sum(len(impression.candidates) for impression in asked[: int(0.4 * visits)])
    assert not samples.judged[:first].any()
    assert samples.judged[first + max(len(impression.candidates) for impression in asked) :].all()


def test_nothing_of_a_visit_is_in_its_own_history_and_numbers(dataset: Dataset) -> None:
    """Were they looked up when the label is known, a bought item would have been counted once more."""
    pairs = [pair for batch in list_batches(dataset, dataset.totals.visits) for pair in batch]
    asked = [step for step in dataset.steps() if isinstance(step, Visit)]
    assert max(map(len, list_batches(dataset, dataset.totals.visits))) == BATCH
    for (user, example), visit in zip(pairs, asked, strict=True):
        assert user == visit.impression.user
        assert (example.sequence["ts"] < visit.impression.ts).all()
    sold: dict[str, int] = {}
    numbers = iter(example.numbers for _, example in pairs)
    for step in dataset.steps():
        if isinstance(step, Visit):
            ever = np.array([sold.get(candidate.item, 0) for candidate in step.impression.candidates])
            found = next(numbers)
            assert found is not None
            # The fourth number is the logarithm of the count of the item, ever.
            np.testing.assert_allclose(found[:, 3], np.log(ever + 0.01), rtol=2**-10)
        for behavior in step.behaviors:
            sold[behavior.item] = sold.get(behavior.item, 0) + 1


def test_peers_get_the_matches_and_the_numbers_of_every_candidate(dataset: Dataset) -> None:
    batch = [example for _, example in next(list_batches(dataset, 3))]
    rows = table(batch)
    assert len(rows) == sum(len(example.items) for example in batch)
    numbers = [example.numbers for example in batch if example.numbers is not None]
    np.testing.assert_array_equal(rows[:, -numbers[0].shape[1] :], np.concatenate(numbers))


def test_decayed_popularity_predicts_the_click_rate_of_an_item(dataset: Dataset) -> None:
    ranker = DecayedPopularity()
    batches = [[example for _, example in batch] for batch in list_batches(dataset, dataset.totals.visits)]
    predicted = [ranker.learn(batch) for batch in batches]
    assert np.concatenate(predicted[0]) == pytest.approx(PRIOR)
    assert len({round(float(each), 3) for each in np.concatenate(predicted[-1])}) > 5
    assert np.concatenate(predicted[-1]).mean() == pytest.approx(0.2, abs=0.08)


def test_the_command_leaves_figures_and_a_picture_and_says_what_is_not_installed(folder: Path, tmp_path: Path) -> None:
    words = ["bench", "learning", "--quick", "--data", f"{folder}", "--peers", "lightgbm"]
    assert main([*words, "--json", f"{tmp_path}/a.json", "--plot", f"{tmp_path}/a.png"]) == 0
    found = json.loads((tmp_path / "a.json").read_bytes())
    rows = {row["arm"]: row for row in found["results"]}
    assert {"sam", "din", "mean", "counts", "sam, no statistics", "popularity, decayed"} <= set(rows)
    installed = importlib.util.find_spec("lightgbm") is not None
    assert ("lightgbm" in rows) == installed
    assert any("lightgbm is not installed" in note for note in found["notes"]) == (not installed)
    for row in rows.values():
        assert 0 < row["AUC"] < 1
        assert row["± AUC"] > 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_peer_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "learning", "--quick", "--data", f"{folder}", "--peers", "xgboost"]) != 0
    assert "no peer is called 'xgboost'; there are lightgbm, vw, river" in capsys.readouterr().err
