"""Exports, run by a server that knows only their files, score as the scorer does."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from model.batch import gap_bucket
from model.embedding.initial import Initial, initial_vectors
from model.errors import ExportError
from model.example import Example
from model.export.graph import check, write_torch_export
from model.export.kinds import PADDED, REFUSED
from model.export.module import ScoringModule, _age_limits
from model.export.write import Counted, Format, export
from model.interest.options import KINDS
from model.learner import Learner
from model.network import Network
from model.scorer import Scorer
from model.spec import ModelSpec
from model.statistics.item_statistics import ItemStatistics
from model.statistics.primary import StatisticsPrimary
from state.behavior import action_key, category_key, item_key
from tests.model.export.host import Host
from tests.model.test_contract import LENGTH, examples, small
from tests.model.worlds import FEATURES, NOW, example, featured

SEED = 3
DEFAULTS = ("sam", "din", "mean", "counts")
GRAPHS = [kind for kind in KINDS if kind not in REFUSED]
NOT_ONNX = {"eta", "sim-hard", "sim-soft", "twin", "dare", "mirrn"}


def learned(spec: ModelSpec) -> tuple[Learner, Scorer]:
    learner, scorer = Learner(spec, seed=SEED), Scorer(spec, seed=SEED)
    for seed in range(4):
        learner.learn(examples(seed))
    learner.begin_epoch(1)
    scorer.apply(learner.base("a"))
    return learner, scorer


def asked(seed: int = 77) -> list[Example]:
    """Requests of no, few and many behaviours, with items that nobody has learned."""
    rng = np.random.default_rng(seed)
    found = [example(rng, length, c, labelled=False) for length, c in ((0, 1), (1, 3), (7, 2), (LENGTH + 9, 5))]
    for each in found:
        each.items[0] = 123_456_789
    return found


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "sam" else pytest.mark.slow) for kind in DEFAULTS]
)
def test_a_torch_export_scores_as_the_scorer_does(tmp_path: Path, kind: str) -> None:
    learner, scorer = learned(small(kind))
    said = export(learner.base("a"), small(kind), SEED, tmp_path / "out", "torch.export")
    assert said["largest_difference"] < 1e-5
    host = Host(tmp_path / "out")
    run = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for each, expected in zip(asked(), scorer.score(asked()), strict=True):
        found = run(host.inputs(each)).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.dtype == np.float32


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "counts" else pytest.mark.slow) for kind in GRAPHS if kind not in NOT_ONNX],
)
def test_an_onnx_graph_scores_as_the_scorer_does(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    learner, scorer = learned(small(kind))
    export(learner.base("a"), small(kind), SEED, tmp_path / "out", "onnx")
    host = Host(tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    taken = {each.name for each in session.get_inputs()}
    for each, expected in zip(asked(), scorer.score(asked()), strict=True):
        [found] = session.run(None, {name: at.numpy() for name, at in host.inputs(each).items() if name in taken})
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(NOT_ONNX))
def test_kinds_that_onnx_has_no_operator_for_are_refused_with_it(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    with pytest.raises(ExportError, match=rf"kind '{kind}' cannot be exported as ONNX: .*aten.*torch.export writes it"):
        export(learned(small(kind))[0].base("a"), small(kind), SEED, tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in GRAPHS if kind not in DEFAULTS])
def test_every_kind_is_exported_or_says_why_not(tmp_path: Path, kind: str) -> None:
    learner, scorer = learned(small(kind))
    export(learner.base("a"), small(kind), SEED, tmp_path / "out", "torch.export")
    host = Host(tmp_path / "out")
    # No behaviours at all make the module's least L, or a padded one.
    assert (host.said["L"]["exactly"] is not None) == (kind in PADDED)
    run = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for each, expected in zip(asked(), scorer.score(asked()), strict=True):
        np.testing.assert_allclose(run(host.inputs(each)).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(REFUSED))
@pytest.mark.parametrize("format_", ["torch.export", "onnx"])
def test_a_kind_that_is_no_graph_says_why(tmp_path: Path, kind: str, format_: Format) -> None:
    spec = small(kind) if kind != "random" else msgspec.structs.replace(small("popularity"), interest=KINDS[kind]())
    with pytest.raises(ExportError, match=f"kind '{kind}' cannot be exported as a graph: .*safetensors"):
        export(Learner(spec).base("a"), spec, 0, tmp_path / "out", format_)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_what_torch_cannot_take_is_an_error_that_names_the_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of a kind that is added and whose author did not think of exports."""
    monkeypatch.setattr("model.export.kinds.PADDED", frozenset())
    module = ScoringModule(Network(small("sasrec")).requires_grad_(False)).eval()
    with pytest.raises(ExportError, match=r"kind 'sasrec' cannot be exported as a graph: torch says .*\S"):
        write_torch_export(module, tmp_path / "model.pt2")


def test_a_graph_that_scores_otherwise_is_refused() -> None:
    module = ScoringModule(Network(small("counts")).requires_grad_(False)).eval()
    assert check(module, module) == 0.0
    with pytest.raises(ExportError, match=r"gives other probabilities than the scorer, by up to 0\.01"):
        check(module, lambda inputs: module(inputs) + 0.01)


@pytest.mark.parametrize("kind", ["sam", "popularity"])
def test_parameters_alone_make_the_same_model_again(tmp_path: Path, kind: str) -> None:
    learner, scorer = learned(small(kind))
    export(learner.base("a"), small(kind), SEED, tmp_path / "out", "safetensors")
    host = Host(tmp_path / "out")
    spec = msgspec.convert(host.said["model"], ModelSpec)
    assert spec == small(kind)
    network = Network(spec).eval()
    network.load_state_dict(
        {name: torch.tensor(each) for name, each in _load(tmp_path / "out" / "model.safetensors").items()}
    )
    module = ScoringModule(network)
    for each, expected in zip(asked(), scorer.score(asked()), strict=True):
        with torch.inference_mode():
            np.testing.assert_allclose(module(host.inputs(each)).numpy(), expected, atol=1e-5)


@pytest.mark.slow
def test_features_of_callers_are_inputs_that_the_description_names(tmp_path: Path) -> None:
    spec = replace(small("din"), features=FEATURES)
    learner = Learner(spec, seed=SEED)
    rng = np.random.default_rng(1)
    for _ in range(4):
        learner.learn([featured(rng, 9, 4) for _ in range(3)])
    said = export(learner.base("a"), spec, SEED, tmp_path / "out", "torch.export")
    assert said["largest_difference"] < 1e-5
    shapes = {each["name"]: each["shape"] for each in said["inputs"]}
    assert shapes["target_numbers"] == ["C", 5]
    assert shapes["history_text_vectors"] == ["L", 5, 8]
    named = {each["feature"]: each for each in said["features"]["target_numbers"]}
    assert named["price"] == {
        "feature": "price",
        "of": "item",
        "kind": "number",
        "columns": [4, 5],
        "value": "asinh of the number",
    }
    assert {each["feature"] for each in said["features"]["history_texts"]} == {"brand", "shop", "tags"}


def test_the_description_says_how_keys_and_rows_are_made(tmp_path: Path) -> None:
    learner, _ = learned(small("sam"))
    export(learner.base("a"), small("sam"), SEED, tmp_path / "out", "safetensors")
    host = Host(tmp_path / "out")
    assert host.said["keys"]["examples"]["item"]["kettle"] == item_key("kettle")
    assert host.said["keys"]["examples"]["category"] == {"kitchen": category_key("kitchen"), "": 0}
    assert host.said["keys"]["examples"]["action"] == {"view": action_key("view"), "": 0}
    for name, about in host.said["rows"]["tables"].items():
        for key, vector in about["initial_examples"].items():
            np.testing.assert_allclose(host.initial(name, int(key)), vector, rtol=1e-5, atol=1e-8)
            initial = Initial(about["initial"]["seed"], about["initial"]["std"])
            own = initial_vectors(np.array([key], np.uint64), about["dim"], initial)[0]
            np.testing.assert_array_equal(own, np.array(vector, np.float32))
        keys = host.tables[f"{name}/keys"]
        assert (np.diff(keys.astype(object)) > 0).all()
        assert host.said["tensors"][f"{name}/values"] == ["float32", [len(keys), about["dim"]]]


def test_statistics_can_be_computed_from_the_files(tmp_path: Path) -> None:
    spec, rng = small("counts"), np.random.default_rng(5)
    primary = StatisticsPrimary(spec.statistics, max_rows=1000, retention_s=1e9)
    oracle = ItemStatistics(spec.statistics, length=6)
    for _ in range(5):
        behaviors = example(rng, 40, 1).sequence
        primary.fold(behaviors)
        oracle.fold(behaviors)
    export(learned(spec)[0].base("a"), spec, SEED, tmp_path / "out", "safetensors", Counted(primary.state(), 6))
    host, each = Host(tmp_path / "out"), example(rng, 12, 5)
    expected = oracle.features(each.sequence, NOW, each.items, each.categories)
    np.testing.assert_allclose(_statistics(host, each), expected, rtol=2e-3, atol=2e-3)


def _statistics(host: Host, each: Example) -> list[list[float]]:
    """Compute the numbers of candidates as `statistics.how` says, in plain Python."""
    about = host.said["statistics"]
    lives = [*about["half_lives_s"], float("inf")]
    sequence = each.sequence[-about["length"] :]

    def count(of: str, key: int) -> list[float]:
        keys, times, sums = (host.tables[f"statistics.{of}/{part}"] for part in ("keys", "times", "sums"))
        if key not in keys:
            return [0.0 for _ in lives]
        [place] = np.flatnonzero(keys == key).tolist()
        return [
            float(total) * 2.0 ** (-max(each.ts - int(times[place]), 0) / 1000 / life)
            for total, life in zip(sums[place, 0], lives, strict=True)
        ]

    def own(of: str, key: int | None) -> list[float]:
        mine = [row for row in sequence if key is None or (key and row[of] == key)]
        return [sum(2.0 ** (-max(each.ts - int(row["ts"]), 0) / 1000 / life) for row in mine) for life in lives]

    everything, all_own = count("category", 2**32), own("item", None)
    found = []
    for item, category in zip(each.items.tolist(), each.categories.tolist(), strict=True):
        numbers: list[float] = []
        for of, key in (("item", item), ("category", category)):
            n, mine = (count(of, key) if key else [0.0 for _ in lives]), own(of, key)
            logs = [np.log(value + 0.01) for value in n]
            numbers += logs
            numbers += [value - logs[-1] for value in logs[:-1]]
            for place in range(len(lives)):
                share = np.log((mine[place] + 0.01) / (all_own[place] + 1))
                numbers.append(share - np.log((n[place] + 1) / (everything[place] + 1)))
        found.append(numbers)
    return found


@given(st.integers(-(2**40), 2**47))
def test_ages_fall_into_the_same_buckets_as_in_the_worker(age: int) -> None:
    assert int((torch.tensor(age) >= _age_limits()).sum()) == gap_bucket(np.array([age]))[0]


def test_a_folder_that_is_in_use_is_not_written_over(tmp_path: Path) -> None:
    learner, _ = learned(small("counts"))
    (tmp_path / "out").mkdir()
    export(learner.base("a"), small("counts"), SEED, tmp_path / "out", "safetensors")  # an empty one is taken
    before = (tmp_path / "out" / "export.json").read_text()
    with pytest.raises(ExportError, match=f"{tmp_path / 'out'} is there already: name a new folder"):
        export(learner.base("b"), small("counts"), SEED, tmp_path / "out", "safetensors")
    assert (tmp_path / "out" / "export.json").read_text() == before
    assert json.loads(before)["arm"] == "a"
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot write .*file/out"):
        export(learner.base("a"), small("counts"), SEED, tmp_path / "file" / "out", "safetensors")


def _load(path: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(path.read_bytes())
