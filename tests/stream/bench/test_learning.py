"""`bench learning`: all see the same samples, nothing of a visit's outcome, and what is not installed is said."""

import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model.example import Example
from model.features.gather import columns_of
from model.interest.baselines import PRIOR
from model.match import PER_KIND
from model.predict import Predictions
from state.behavior import action_key, category_key, item_key, pack
from stream.bench.harness.peer_table import ACTIONS, LATELY, TableMaker
from stream.bench.harness.rankers import PEERS, DecayedPopularity
from stream.cli.main import main
from stream.datasets import open_dataset
from stream.datasets.base import Dataset, Visit
from stream.experiment.statistics.auc import clustered_auc
from stream.schema.features import FeatureSchema
from stream.validation.contest import BATCH, Contestant, contest, list_batches
from tests.stream.bench.baskets import write_baskets
from tests.stream.datasets.support import write_exposures

QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_baskets(tmp_path_factory.mktemp("baskets"))


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


def test_where_visits_are_of_one_item_a_step_is_of_more_of_them(tmp_path: Path) -> None:
    lines = [(user, video, 10 * video + user, 0, "39") for video in range(12) for user in range(6)]
    exposures = open_dataset("kuairand", write_exposures(tmp_path, lines, [(1, 0, 1)]))
    assert [len(batch) for batch in list_batches(exposures, exposures.totals.visits)] == [64, 8]


def test_peers_get_the_matches_and_the_numbers_of_every_candidate(dataset: Dataset) -> None:
    batch = [example for _, example in next(list_batches(dataset, 3))]
    found = TableMaker().table(batch)
    assert len(found.numbers) == len(found.texts) == sum(len(example.items) for example in batch)
    numbers = [example.numbers for example in batch if example.numbers is not None]
    np.testing.assert_array_equal(found.numbers[:, -numbers[0].shape[1] :], np.concatenate(numbers))
    assert found.texts.shape[1] == 0


def test_with_features_examples_are_as_a_worker_has_them(dataset: Dataset) -> None:
    schema = FeatureSchema(dataset.features)
    visits = dataset.totals.visits
    examples = [example for batch in list_batches(dataset, visits, schema) for _, example in batch]
    plain = [example for batch in list_batches(dataset, visits) for _, example in batch]
    asked = [step.impression for step in dataset.steps() if isinstance(step, Visit)]
    bought: dict[str, list[bytes]] = {}
    expected = []
    for step in dataset.steps():
        if isinstance(step, Visit):
            expected.append(b"".join(bought.get(step.impression.user, ())))
        for each in step.behaviors:
            key, category = item_key(each.item), category_key(each.category)
            packed = pack(key, category, action_key(each.action), each.ts) + schema.pack_behavior(each.features)
            bought.setdefault(each.user, []).append(packed)
    for example, other, impression, sequence in zip(examples, plain, asked, expected, strict=True):
        assert example.sequence.tobytes() == sequence
        assert example.context is not None
        assert example.attributes is not None
        assert example.context.tobytes() == schema.pack_context(impression.features)
        of_items = [schema.pack_item(each.features, 0) for each in impression.candidates]
        assert example.attributes.tobytes() == b"".join(of_items)
        assert other.context is other.attributes is None
        np.testing.assert_array_equal(example.numbers, other.numbers)


def test_peers_get_the_features_and_how_often_they_match(dataset: Dataset) -> None:
    schema = FeatureSchema(dataset.features)
    batches = list(list_batches(dataset, dataset.totals.visits, schema))
    batch = [example for _, example in batches[-1]]
    with_features, without = TableMaker(schema.features), TableMaker()
    found, plain = with_features.table(batch), without.table(batch)
    assert len(found.numbers) == len(plain.numbers)
    texts = [feature for feature in schema.features if feature.embeds and feature.of != "behavior"]
    assert found.texts.shape[1] == len(texts)
    matched = sum(feature.of == "item" for feature in texts)
    of_candidates = found.numbers[:, with_features.user_columns :]
    assert of_candidates.shape[1] == plain.numbers.shape[1] - without.user_columns + PER_KIND * matched
    makers = [
        (example.attributes["manufacturer"][place, 0], example.sequence["manufacturer"][:, 0])
        for example in batch
        if example.attributes is not None
        for place in range(len(example.items))
    ]
    place = [feature.name for feature in columns_of(schema.features).matched].index("manufacturer")
    ever = of_candidates[:, PER_KIND * (2 + place) + 2]
    np.testing.assert_allclose(ever, [np.log1p((own == past).sum()) for own, past in makers], rtol=1e-6)
    assert len(set(ever.tolist())) > 2


def test_peers_get_the_click_rate_of_a_user_lately_and_ever(tmp_path: Path) -> None:
    lines = [
        (user, video, 10 * video + user, int(video % (2 + user) == 0), "39") for video in range(30) for user in (0, 1)
    ]
    exposures = open_dataset("kuairand", write_exposures(tmp_path, lines, [(1, 0, 1)]))
    schema = FeatureSchema(exposures.features)
    tables = TableMaker(schema.features)
    half = tables.user_columns // 2
    for batch in list_batches(exposures, exposures.totals.visits, schema):
        examples = [example for _, example in batch]
        found = tables.table(examples).numbers[:, : 2 * half]
        for row, example in zip(found, examples, strict=True):
            for told, past in ((row[:half], example.sequence[-LATELY:]), (row[half:], example.sequence)):
                if not len(past):
                    assert np.isnan(told).all()
                    continue
                shares = [np.mean(past["action"] == action_key(name)) for name in ("click", "skip", "view")]
                known = told[:ACTIONS]
                assert sorted(known[known > 0]) == pytest.approx(sorted(share for share in shares if share))
                assert told[-1] == pytest.approx(past["long_view"].mean())


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
    variants = {"sam, no features", "sam, no statistics", "popularity, decayed"}
    assert variants | {"sam", "din", "mean", "counts"} <= set(rows)
    installed = importlib.util.find_spec("lightgbm") is not None
    assert ("lightgbm" in rows) == installed
    assert any("lightgbm is not installed" in note for note in found["notes"]) == (not installed)
    for row in rows.values():
        assert 0 < row["AUC"] < 1
        assert row["± AUC"] > 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_takes_a_set_of_real_exposures_and_leaves_features_out(tmp_path: Path) -> None:
    lines = [(user, video, 10 * video + user, (user + video) % 2, "39") for video in range(12) for user in range(6)]
    data = write_exposures(tmp_path, lines, [(1, 0, 1)])
    words = ["bench", "learning", "--quick", "--dataset", "kuairand", "--data", f"{data}", "--no-features"]
    assert main([*words, "--json", f"{tmp_path}/a.json", "--plot", f"{tmp_path}/a.png"]) == 0
    found = json.loads((tmp_path / "a.json").read_bytes())
    assert "real exposures" in found["notes"][0]
    assert "features: none" in found["notes"][0]
    assert "--dataset kuairand --no-features" in found["run"]["command"]
    assert not any("no features" in row["arm"] for row in found["results"])
    assert found["targets"] == []


@pytest.mark.parametrize("name", ["lightgbm", "vw", "river"])
def test_peers_learn_with_features(name: str, dataset: Dataset) -> None:
    schema = FeatureSchema(dataset.features)
    try:
        peer = PEERS[name](dataset.totals.samples, schema.features)
    except ImportError as error:
        pytest.skip(f"needs pip install 'samstream[peers]': {error}")
    samples = contest(dataset, {name: (one := Contestant(peer))}, dataset.totals.visits, QUIET, schema)
    assert clustered_auc(samples.labels, np.concatenate(one.predictions).astype(np.float64), samples.users).value > 0.6


def test_an_unknown_peer_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "learning", "--quick", "--data", f"{folder}", "--peers", "xgboost"]) != 0
    assert "no peer is called 'xgboost'; there are lightgbm, vw, river" in capsys.readouterr().err


def test_forgetting_compares_rules_on_the_same_samples(folder: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "a.json", tmp_path / "a.png"
    asked = ["bench", "forgetting", "--quick", "--data", f"{folder}", "--json", f"{out}", "--plot", f"{plot}"]
    assert main(asked) == 0
    rows = {row["rule"]: row for row in json.loads(out.read_bytes())["results"]}
    first, *others = rows.values()
    assert first["rows"] == first["admitted"] > 0
    assert first["±"] == first["expired"] == first["refused"] == 0
    for row in others:
        assert row["admitted"] - row["expired"] - row["evicted"] == row["rows"] <= first["rows"]
    assert rows["4,096 rows"]["AUC"] == first["AUC"], "it is not full"
    assert plot.read_bytes().startswith(b"\x89PNG")
