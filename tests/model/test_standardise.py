"""Numbers on one scale: against the mean and variance of all that came, and bounded whatever comes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.standardise import WINDOW, Standardise


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 2**31))
def test_mean_and_variance_are_those_of_all_numbers_so_far_in_any_batches(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.normal((3.0, -200.0), (0.5, 30.0), (sum(sizes), 2)).astype(np.float32)
    standardise, start = Standardise(2), 0
    for size in sizes:
        standardise.observe(torch.from_numpy(numbers[start : start + size]))
        start += size
    assert standardise.seen.tolist() == [len(numbers)] * 2
    np.testing.assert_allclose(standardise.mean.numpy(), numbers.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(standardise.variance.numpy(), numbers.astype(np.float64).var(0), rtol=1e-2, atol=1e-4)


@pytest.mark.long
def test_the_variance_settles_at_that_of_the_stream_and_follows_it() -> None:
    rng, standardise = np.random.default_rng(1), Standardise(1)
    for scale in (2.0, 8.0):
        for _ in range(6000):
            standardise.observe(torch.from_numpy(rng.normal(7.0, scale, (256, 1)).astype(np.float32)))
        assert standardise.seen.item() == WINDOW
        assert standardise.variance.item() == pytest.approx(scale**2, rel=0.05)
    out = standardise(torch.tensor([[7.0], [15.0]]))
    assert out.flatten().tolist() == pytest.approx([0.0, 1.0], abs=0.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_observed_and_what_is_far_off_is_bounded(bad: float) -> None:
    standardise = Standardise(2)
    standardise.observe(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    before = standardise.mean.clone(), standardise.variance.clone()
    standardise.observe(torch.tensor([[bad, 5.0]]))
    standardise.observe(torch.empty(0, 2))
    assert torch.equal(standardise.mean, before[0])
    assert torch.equal(standardise.variance, before[1])
    assert standardise(torch.tensor([[1e30, -1e30]])).tolist() == [[5.0, -5.0]]


def test_a_number_that_never_changes_stays_near_zero() -> None:
    standardise = Standardise(1)
    for _ in range(50):
        standardise.observe(torch.full((16, 1), 4.0))
    assert abs(standardise(torch.full((1, 1), 4.0)).item()) < 0.1
