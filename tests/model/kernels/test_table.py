"""A table learns the same with the compiled kernels as without them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.embedding.admission import Admission
from model.embedding.initial import Initial
from model.embedding.learned import LearnedTable
from model.kernels import native, table

built = pytest.mark.skipif(native.library() is None, reason="the compiled kernels are not built, or switched off")
KEYS = st.lists(st.integers(0, 40), max_size=120)


def learned(batches: list[list[int]], dim: int, *, most: int, admit_after: int) -> tuple[Any, ...]:
    """Return what a table gives in each step, and what it has in the end."""
    learning = LearnedTable(
        dim,
        initial=Initial(3, 0.1),
        max_rows=most,
        admission=Admission(admit_after, capacity=8),
        expire_after_s=1.0,
    )
    rng = np.random.default_rng(1)
    steps = []
    for now, batch in enumerate(batches):
        learning.advance(400 * now)
        keys = np.array(batch, np.uint64)
        taken = learning.take(keys)
        steps.append([taken.positions.numpy(), taken.vectors.detach().numpy().copy(), taken.rows, taken.fresh])
        taken.vectors.grad = torch.from_numpy(rng.normal(size=taken.vectors.shape).astype(np.float32))
        learning.step(taken, lr=0.3)
        steps.append([learning.gather(keys).numpy(), *learning.touched()])
    return steps, learning.state(), learning.counts


@built
@given(
    batches=st.lists(KEYS, max_size=6),
    dim=st.integers(1, 40),
    most=st.integers(1, 50),
    admit_after=st.integers(1, 3),
)
@settings(max_examples=150)
def test_steps_of_a_table_are_the_same_without_the_kernels(
    batches: list[list[int]], dim: int, most: int, admit_after: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        expected, kept, counts = learned(batches, dim, most=most, admit_after=admit_after)
    steps, state, counted = learned(batches, dim, most=most, admit_after=admit_after)
    assert counted == counts
    for found, wanted in zip(steps, expected, strict=True):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert state.keys() == kept.keys()
    for name, array in state.items():
        np.testing.assert_allclose(array, kept[name], rtol=1e-4, atol=1e-6, err_msg=name)


@built
@given(rows=st.lists(st.integers(-1, 50), max_size=200), remembered=st.integers(0, 2**32 - 1))
def test_rows_are_told_apart_whatever_was_remembered_of_them(rows: list[int], remembered: int) -> None:
    memo = np.full(51, remembered, np.uint32)
    distinct, places = table.distinct_rows(np.array(rows, np.int64), memo)
    first = list(dict.fromkeys(row for row in rows if row >= 0))
    assert distinct.tolist() == first
    assert places.tolist() == [0 if row < 0 else 1 + first.index(row) for row in rows]


@built
def test_rows_of_a_large_table_are_gathered_and_moved_where_they_lie() -> None:
    rng = np.random.default_rng(0)
    values, sums = torch.rand(5000, 20), torch.rand(5000)
    rows = rng.permutation(5000)[:700]
    assert torch.equal(table.gather_rows(values, rows), values[rows])
    vectors, gradients, taken = torch.rand(900, 20), torch.rand(900, 20), rng.permutation(900)[:700]
    moved, added = values.clone(), sums.clone()
    added[rows] += gradients[taken].square().mean(1)
    moved[rows] = vectors[taken] - gradients[taken] * (0.2 / (added[rows].sqrt() + 1e-8))[:, None]
    table.adagrad(rows, vectors, taken, gradients, values, sums, lr=0.2, eps=1e-8)
    torch.testing.assert_close(values, moved)
    torch.testing.assert_close(sums, added)
