"""Torch's layers, row by row: as good as torch's own, and exact where they say so."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.kernels import batch_invariant


@pytest.fixture(autouse=True)
def drawn() -> None:
    torch.manual_seed(0)


@given(
    terms=st.integers(1, 4500), scale=st.sampled_from([1e-40, 1e-20, 1e-3, 1.0, 1e20, 1e37]), seed=st.integers(0, 2**32)
)
@settings(max_examples=40)
def test_numbers_on_the_grid_add_up_without_rounding(terms: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(1, terms, generator=generator) * factor for factor in (scale, 1.0))
    left[0, 0], right[0, 0] = scale, -1.0
    x, y = batch_invariant.on_grid(left, 1, terms), batch_invariant.on_grid(right, 1, terms)
    torch.testing.assert_close(x.float(), left, rtol=0, atol=float(left.abs().max()) * 2**-19)
    exact = sum(Fraction(a) * Fraction(b) for a, b in zip(x[0].tolist(), y[0].tolist(), strict=True))
    for order in (torch.arange(terms), torch.randperm(terms, generator=generator)):
        added = 0.0
        for product in (x[0, order] * y[0, order]).tolist():
            added += product
        assert Fraction(added) == exact


def test_zeros_stay_zeros_and_what_is_no_number_stays_in_its_slice() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, math.nan], [math.inf, 1.0], [1.0, 2.0]])
    found = batch_invariant.on_grid(x, 1, 2)
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1:3].isnan().all()
    assert found[3].tolist() == [1.0, 2.0]


@torch.inference_mode()
def test_layers_equal_torchs() -> None:
    x, state = torch.randn(37, 20), torch.randn(37, 12)
    layer, cell = nn.Linear(20, 7), nn.GRUCell(20, 12)
    assert batch_invariant.usable(x)
    torch.testing.assert_close(batch_invariant.linear(layer, x), layer(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(batch_invariant.matmul(x.view(1, 37, 20), x.T), (x @ x.T)[None], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(batch_invariant.bmm(x.view(1, 37, 20), x.T[None]), (x @ x.T)[None], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(batch_invariant.gru(cell, x, state), cell(x, state), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(batch_invariant.sigmoid(x[:, 3]), x[:, 3].sigmoid())
    mlp = nn.Sequential(layer, nn.LayerNorm(7), nn.PReLU(), nn.Linear(7, 1))
    torch.testing.assert_close(batch_invariant.mlp(mlp, x), mlp(x), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_products_side_by_side_equal_each_alone() -> None:
    left, right = torch.randn(9, 3, 50), torch.randn(9, 50, 7)
    together = batch_invariant.bmm(left, right)
    for one, other, found in zip(left, right, together, strict=True):
        assert torch.equal(found, batch_invariant.product(one, other))
        assert torch.equal(found[1:2], batch_invariant.product(one[1:2], other))


@pytest.mark.parametrize("threads", [1, 3])
@torch.inference_mode()
def test_a_function_of_equal_numbers_is_equal_in_every_place(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size in (1, 3, 63, 64, 65, 40_001):
            for number in np.linspace(-9.0, 9.0, 31):
                assert len(np.unique(batch_invariant.sigmoid(torch.full((size,), number)).numpy())) == 1
    finally:
        torch.set_num_threads(before)


def test_gradients_and_double_precision_are_left_to_torch() -> None:
    x: Tensor = torch.randn(3, 4, requires_grad=True)
    assert not batch_invariant.usable(x)
    batch_invariant.linear(nn.Linear(4, 2), x).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    with torch.no_grad():
        assert batch_invariant.usable(x)
        assert not batch_invariant.usable(x.double())
