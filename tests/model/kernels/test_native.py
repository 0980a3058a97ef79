"""The compiled kernel against the literal reference, and who may use it."""

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import collate
from model.embedding.key_index import KeyIndex
from model.interest.base import InterestModel
from model.interest.din import DeepInterest
from model.interest.options import Din, Sam
from model.interest.packing import packed
from model.interest.sam import SparseAttentiveMemory
from model.interest.sam_reference import literal_sam
from model.kernels import native
from model.match import MatchLogits, compiled_matches, count_matches, find_matches, list_matches, match_features
from model.network import Cross, Embedded, Network, build_head, head_logits
from model.predict import model_batch
from model.spec import preset
from tests.model.worlds import example, nothing_known

built = pytest.mark.skipif(native.library() is None, reason="the kernel is not built, or this is no CPU with AVX2")


def inputs(B: int, C: int, L: int, d: int, seed: int, *, matched: bool) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(B, L, generator=generator) < torch.rand(B, 1, generator=generator) * 1.5 - 0.25
    keys, targets = torch.randn(B, L, d, generator=generator), torch.randn(B, C, d, generator=generator)
    return keys, mask, targets, torch.randn(B, C, L, generator=generator) if matched else None


def in_torch(model: InterestModel, given: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        result: torch.Tensor = model(*given)
    return result


def literal_with_deviation(model: SparseAttentiveMemory, given: tuple[Any, ...]) -> tuple[torch.Tensor, float]:
    """Return the literal form, and the least deviation that a LayerNorm of it has met; no LayerNorm meets infinity."""
    met = [math.inf]
    hooks = [
        unit.norm.register_forward_pre_hook(lambda _, read: met.append(float(read[0].std(-1, correction=0).min())))
        for unit in model.units
        if isinstance(unit.norm, torch.nn.LayerNorm)
    ]
    expected = literal_sam(model, *given)
    for hook in hooks:
        hook.remove()
    return expected, max(min(met), 1e-9)


@pytest.mark.long
@built
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 60), st.integers(3, 40)),
    hidden=st.integers(1, 9),
    options=st.fixed_dictionaries(
        {
            "passes": st.integers(1, 3),
            "feedback": st.sampled_from(["iter", "stk"]),
            "normalise_readout": st.booleans(),
            "shared_attention": st.booleans(),
            "output": st.sampled_from(["readouts", "paper"]),
            "enhancement": st.booleans(),
        }
    ),
    seed=st.integers(0, 2**32),
    matched=st.booleans(),
)
@settings(max_examples=150)
def test_the_kernel_equals_the_literal_form(
    sizes: tuple[int, int, int, int], hidden: int, options: dict[str, Any], seed: int, matched: bool
) -> None:
    torch.manual_seed(seed)
    model = SparseAttentiveMemory(sizes[3], Sam(attention_hidden=hidden, **options))
    given = inputs(*sizes, seed, matched=matched)
    with torch.inference_mode():
        assert native.usable(given[0])
        expected, deviation = literal_with_deviation(model, given)
        # Readouts differ by 2e-5 at most; a LayerNorm of a few nearly equal numbers divides that by their deviation.
        atol = min(max(1e-4, 2e-5 / deviation), 5e-4) if sizes[3] < 8 else 1e-4
        torch.testing.assert_close(model(*given), expected, rtol=1e-4, atol=atol)


@built
@pytest.mark.parametrize("normalise", [False, True])
def test_the_kernel_equals_the_factored_form_of_din(normalise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = DeepInterest(12, Din(attention_hidden=5, normalise_readout=normalise))
    given = inputs(3, 33, 130, 12, 1, matched=True)
    with torch.inference_mode():
        torch.testing.assert_close(model(*given), in_torch(model, given, monkeypatch), rtol=1e-4, atol=1e-4)


@pytest.mark.long
@built
def test_every_build_that_runs_here_says_the_same() -> None:
    """The narrower build, which other machines use, in a process of its own."""
    torch.manual_seed(0)
    model = SparseAttentiveMemory(12, Sam(passes=3, attention_hidden=9, enhancement=True))
    with torch.inference_mode():
        here = model(*inputs(2, 21, 130, 12, 1, matched=True))
    root, environment = Path(__file__).parents[3], {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    narrow = subprocess.run([sys.executable, "-c", _NARROW], env=environment, cwd=root, capture_output=True, check=True)
    there = torch.from_numpy(np.frombuffer(narrow.stdout, np.float32).reshape(here.shape).copy())
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


_NARROW = """
import sys, torch
from model.interest.options import Sam
from model.interest.sam import SparseAttentiveMemory
from model.kernels import native
from tests.model.kernels.test_native import inputs
assert native.library() is not None
torch.manual_seed(0)
model = SparseAttentiveMemory(12, Sam(passes=3, attention_hidden=9, enhancement=True))
with torch.inference_mode():
    sys.stdout.buffer.write(model(*inputs(2, 21, 130, 12, 1, matched=True)).numpy().tobytes())
"""


@built
@pytest.mark.parametrize(
    ("setting", "capability", "build"),
    [
        ("0", "AVX512", None),
        ("0", "AVX2", None),
        ("avx2", "AVX512", "_passes"),
        ("avx2", "AVX2", "_passes"),
        ("1", "AVX512", "_passes_avx512"),
        ("", "AVX2", "_passes"),
        ("", "DEFAULT", None),
        ("AVX", "AVX2", "_passes"),
    ],
)
def test_the_build_is_what_was_asked_for_and_the_cpu_can_do(
    monkeypatch: pytest.MonkeyPatch, setting: str, capability: str, build: str | None
) -> None:
    monkeypatch.setenv("SAMSTREAM_NATIVE", setting)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = native.library.__wrapped__()
    assert (None if found is None else Path(found._name).name.partition(".")[0]) == build
    assert ["not AVX" in str(each.message) for each in warned] == ([True] if setting == "AVX" else [])


@pytest.mark.long
@built
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(0, 260), min_size=1, max_size=4))
@settings(max_examples=50)
def test_matches_equal_those_of_all_pairs(seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    batch = collate([example(rng, length, int(rng.integers(1, 5))) for length in lengths], length=200)
    logits = MatchLogits()
    with torch.no_grad():
        logits.item.fill_(0.5)
        logits.category.fill_(-0.25)
        matches = find_matches(batch)
        expected, bonus = count_matches(matches, batch), logits(matches)
        found, found_bonus = compiled_matches(batch, logits)
    real = batch.target_mask
    torch.testing.assert_close(found.within[real], expected.within[real], rtol=0, atol=0)
    torch.testing.assert_close(found.newest[real], expected.newest[real], rtol=0, atol=0)
    assert found_bonus is not None
    torch.testing.assert_close(found_bonus[real], bonus[real], rtol=0, atol=0)
    assert compiled_matches(batch, None)[1] is None
    listed = list_matches(batch)
    counted = count_matches(listed, batch)
    torch.testing.assert_close(counted.within[real], expected.within[real], rtol=0, atol=0)
    torch.testing.assert_close(counted.newest[real], expected.newest[real], rtol=0, atol=0)
    upstream = torch.rand_like(bonus) * real.unsqueeze(-1)
    learned = [
        torch.autograd.grad((logits(each) * upstream).sum(), list(logits.parameters())) for each in (matches, listed)
    ]
    for one, other in zip(*learned, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(listed)[real], logits(matches)[real], rtol=1e-6, atol=1e-6)


@built
def test_more_matches_than_expected_are_all_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_LISTED", 1)
    batch = collate([example(np.random.default_rng(0), 50, 4) for _ in range(2)], length=50)
    matches = find_matches(batch)
    assert len(list_matches(batch).places) == matches.item.sum() + matches.category.sum() > 1


@pytest.mark.long
@built
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(0, 260), min_size=1, max_size=4))
@settings(max_examples=30)
def test_what_heads_read_of_matches_equals_torchs_to_the_bit(seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    batch = collate([example(rng, length, int(rng.integers(1, 5))) for length in lengths], length=200)
    with torch.no_grad():
        counts, _ = compiled_matches(batch, None)
        found = match_features(counts, batch)
    assert torch.equal(found, match_features(counts, batch)), "with gradients, torch computes it"


@built
def test_behaviours_are_moved_as_torch_moves_them_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    network = Network(preset("sam"))
    batch = model_batch(network.spec, [example(rng, length, 3) for length in (0, 7, 40)], "cpu")
    history, targets = (torch.randn(3, rows, network.spec.width) for rows in (40, 3))
    with torch.inference_mode():
        for table in (network.actions, network.gaps):
            assert table is not None
            table.weight.normal_()
        found = network.attention_weights(batch, Embedded(history, targets))
        with monkeypatch.context() as patch:
            patch.setattr(native, "move_keys", _moved_by_torch)
            expected = network.attention_weights(batch, Embedded(history, targets))
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)


def _moved_by_torch(
    vectors: torch.Tensor, actions: torch.Tensor, gaps: torch.Tensor, of_action: torch.Tensor, of_gap: torch.Tensor
) -> torch.Tensor:
    rows = torch.where(actions == 0, 0, 1 + actions % (len(of_action) - 1))
    return vectors + of_action[rows] + of_gap[gaps]


@built
@given(data=st.data())
@settings(max_examples=50)
def test_sums_by_key_are_those_of_a_loop(data: st.DataObject) -> None:
    few = st.integers(0, 5)
    history = np.array(data.draw(st.lists(few, max_size=40)), np.uint64)
    keys = np.array(data.draw(st.lists(few, min_size=1, max_size=6)), np.uint64)
    weights = np.random.default_rng(0).random((len(history), 3))
    expected = np.zeros((len(keys), 3))
    for place, key in enumerate(keys):
        for behavior, weight in zip(history, weights, strict=True):
            if key and behavior == key:
                expected[place] += weight
    assert np.array_equal(native.sums_by_key(keys, history, weights), expected)


@pytest.mark.long
@built
@given(known=st.sets(st.integers(1, 2**64 - 1), max_size=300), asked=st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_keys_are_found_as_without_the_kernel(known: set[int], asked: list[int]) -> None:
    index = KeyIndex()
    index.admit(np.array(sorted(known), np.uint64))
    index.remove(np.array(sorted(known)[::3], np.uint64))
    keys = np.array([*asked, *known], np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        expected = index.lookup(keys)
    assert np.array_equal(index.lookup(keys), expected)


@built
@pytest.mark.parametrize("hidden", [(), (5,), (64, 32)])
@pytest.mark.parametrize("candidates", [1, 16, 37])
def test_the_head_equals_torchs(hidden: tuple[int, ...], candidates: int) -> None:
    torch.manual_seed(0)
    head = build_head(11, hidden).requires_grad_(False)
    for parameter in head.parameters():
        parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    features = 3 * torch.randn(2, candidates, 11)
    with torch.inference_mode():
        assert native.usable(features)
        torch.testing.assert_close(head_logits(head, features), head(features).squeeze(-1), rtol=1e-5, atol=1e-5)
        features[0, 0, 3] = float("nan")
        assert head_logits(head, features).isnan().sum() == 1


@built
@pytest.mark.parametrize("width", [1, 11, 64])
@pytest.mark.parametrize("candidates", [1, 16, 37])
def test_the_cross_layer_equals_its_equation(width: int, candidates: int) -> None:
    torch.manual_seed(0)
    cross = Cross(width).requires_grad_(False)
    assert not cross(torch.randn(1, 3, width)).any(), "it adds nothing at first"
    for parameter in cross.parameters():
        parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    x = 3 * torch.randn(2, candidates, width)
    crossed = x * (x @ cross.products.weight.T + cross.products.bias) + x
    expected = (crossed * cross.out.weight).sum(-1)
    torch.testing.assert_close(cross(x), expected, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        assert native.usable(x)
        torch.testing.assert_close(cross(x), expected, rtol=1e-4, atol=1e-4)


@built
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_weights_of_any_size_stay_within_a_hundred_thousandth(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = DeepInterest(8, Din(normalise_readout=False))
    given = inputs(2, 9, 50, 8, 1, matched=True)
    with torch.inference_mode():
        model.attention.first.weight *= scale
        model.attention.second.weight *= scale
        torch.testing.assert_close(model(*given), in_torch(model, given, monkeypatch), rtol=1e-4, atol=1e-4)


@built
def test_threads_share_the_candidates_and_change_nothing() -> None:
    torch.manual_seed(0)
    model = SparseAttentiveMemory(8, Sam(passes=3, output="readouts"))
    given = inputs(1, 101, 1100, 8, 2, matched=True)
    given[1][:] = True
    assert 101 * int(given[1].sum()) >= native.THREADED
    before = torch.get_num_threads()
    outputs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                outputs.append(model(*given))
    finally:
        torch.set_num_threads(before)
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])


@built
def test_packed_users_get_what_each_gets_alone() -> None:
    torch.manual_seed(0)
    model = SparseAttentiveMemory(8, Sam(passes=3, output="readouts"))
    lengths, counts = torch.tensor([0, 1, 24, 25, 70]), torch.tensor([3, 1, 5, 2, 4])
    keys, targets, match = torch.randn(5, 70, 8), torch.randn(5, 5, 8), torch.randn(5, 5, 70)
    mask, target_mask = torch.arange(70) < lengths[:, None], torch.arange(5) < counts[:, None]
    with torch.inference_mode():
        together = packed(model, keys, mask, targets, match, nothing_known(mask, target_mask))
        for b, (n, c) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
            alone = literal_sam(model, *(x[b : b + 1] for x in (keys, mask, targets, match)))
            torch.testing.assert_close(together[b, :c], alone[0, :c], rtol=1e-5, atol=1e-5)
            assert n <= 70


@built
def test_what_is_not_a_number_does_not_become_one() -> None:
    model = SparseAttentiveMemory(4, Sam(passes=3, output="readouts"))
    keys, mask, targets, _ = inputs(1, 2, 30, 4, 3, matched=False)
    mask[:] = True
    keys[0, 7, 2] = float("nan")
    with torch.inference_mode():
        assert model(keys, mask, targets)[:, :, 4:].isnan().any(dim=-1).all()


def test_gradients_double_precision_and_a_missing_kernel_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = torch.zeros(1, 1, 2)
    assert not native.usable(keys)
    with torch.no_grad():
        assert native.usable(keys) == (native.library() is not None)
        assert not native.usable(keys.double())
        monkeypatch.setattr(native, "library", lambda: None)
        assert not native.usable(keys)
