"""Embedding tables: initial vectors, serving, and row-wise Adagrad against a literal loop."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.embedding.initial import Initial, initial_vectors
from model.embedding.learned import LearnedTable
from model.embedding.table import EmbeddingTable

Keys = npt.NDArray[np.uint64]
DIM = 4
STD = 0.3


def array(values: list[int]) -> Keys:
    return np.array(values, np.uint64)


def learn(table: LearnedTable, keys: Keys, weights: npt.NDArray[np.float32], lr: float = 0.1) -> None:
    """Take one step on Σ_i weights_i · vector_i, whose gradient for a key is the sum of its weights."""
    taken = table.take(keys)
    loss = (taken.embed() * torch.from_numpy(weights)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    table.step(taken, lr=lr)


def test_initial_vectors_are_standard_and_independent_of_their_company() -> None:
    keys = np.arange(1, 20_001, dtype=np.uint64)
    vectors = initial_vectors(keys, 16, Initial(3, STD))
    assert vectors.std() == pytest.approx(STD, rel=0.01)
    assert np.abs(np.corrcoef(vectors, rowvar=False) - np.eye(16)).max() < 0.03
    assert np.abs(vectors.mean(0)).max() < 0.015
    assert (initial_vectors(keys[::-7], 16, Initial(3, STD)) == vectors[::-7]).all()
    assert (initial_vectors(keys[:9], 16, Initial(4, STD)) != vectors[:9]).any(1).all()
    assert (initial_vectors(array([0, 1]), 16, Initial(3, STD))[0] == 0).all()


def test_initial_vectors_are_what_they_were() -> None:
    # Workers and trainers of different releases must agree; a change needs another model fingerprint.
    vectors = initial_vectors(array([1, 2**64 - 1]), 3, Initial(0, 0.5))
    assert vectors.tolist() == [
        [0.8299365639686584, -0.23865385353565216, 0.44509074091911316],
        [0.4403071105480194, -0.07298367470502853, 0.34406590461730957],
    ]


def test_serving_keys_that_nobody_learned_changes_nothing() -> None:
    table = EmbeddingTable(DIM, initial=Initial(1, STD))
    keys = np.arange(10_000, dtype=np.uint64).reshape(100, 100)
    vectors = table.gather(keys)
    assert vectors.shape == (100, 100, DIM)
    assert (vectors.numpy().reshape(-1, DIM) == initial_vectors(keys.ravel(), DIM, Initial(1, STD))).all()
    assert len(table) == 0


def test_assigned_vectors_are_served_and_others_stay() -> None:
    table = EmbeddingTable(DIM, initial=Initial(1, STD))
    for start in range(1, 5_000, 500):
        keys = np.arange(start, start + 500, dtype=np.uint64)
        table.assign(keys, torch.full((500, DIM), float(start)))
    table.assign(array([3]), torch.full((1, DIM), -1.0))
    got = table.gather(array([3, 4, 4_600, 0, 9_999]))
    assert got[:, 0].tolist()[:4] == [-1.0, 1.0, 4501.0, 0.0]
    assert (got[4].numpy() == initial_vectors(array([9_999]), DIM, Initial(1, STD))[0]).all()


batches = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=12), min_size=1, max_size=6)


@pytest.mark.long
@given(batches, st.integers(0, 2**16))
def test_steps_are_those_of_a_loop_over_keys(batches: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = LearnedTable(DIM, initial=Initial(5, STD), max_rows=100)
    vectors: dict[int, npt.NDArray[np.float64]] = {}
    sums: dict[int, float] = {}
    for batch in batches:
        weights = rng.normal(size=(len(batch), DIM)).astype(np.float32)
        learn(table, array(batch), weights)
        gradients: dict[int, npt.NDArray[np.float64]] = {}
        for key, weight in zip(batch, weights, strict=True):
            if key:
                gradients[key] = gradients.get(key, np.zeros(DIM)) + weight
        for key, gradient in gradients.items():
            if key not in vectors:
                vectors[key] = initial_vectors(array([key]), DIM, Initial(5, STD))[0].astype(np.float64)
                sums[key] = 0.0
            sums[key] += float((gradient**2).mean())
            vectors[key] -= 0.1 * gradient / math.sqrt(sums[key])
    keys = np.arange(13, dtype=np.uint64)
    expected = initial_vectors(keys, DIM, Initial(5, STD)).astype(np.float64)
    for key, vector in vectors.items():
        expected[key] = vector
    assert table.gather(keys).numpy() == pytest.approx(expected, abs=1e-5)
    assert set(table.touched()[0].tolist()) == set(vectors)


def test_the_leaf_holds_what_the_table_serves() -> None:
    table = LearnedTable(DIM, initial=Initial(2, STD), max_rows=100)
    keys = array([5, 6, 5, 0, 7, 6])
    learn(table, keys[:3], np.ones((3, DIM), np.float32))
    taken = table.take(keys)
    embedded = taken.embed()
    assert (embedded == table.gather(keys)).all()
    embedded.sum().backward()  # type: ignore[no-untyped-call]
    assert taken.vectors.grad is not None
    assert taken.vectors.grad[1:, 0].tolist() == [2.0, 2.0, 1.0]
    assert len(taken.vectors) == 1 + 3


def test_touched_rows_are_those_moved_since_the_last_settle() -> None:
    table = LearnedTable(DIM, initial=Initial(2, STD), max_rows=100)
    learn(table, array([5, 6]), np.ones((2, DIM), np.float32))
    table.clear_touched()
    assert len(table.touched()[0]) == 0
    learn(table, array([6, 9]), np.ones((2, DIM), np.float32))
    keys, vectors = table.touched()
    assert keys.tolist() == [6, 9]
    assert (vectors == table.gather(keys).numpy()).all()
    assert table.publish_all()[0].tolist() == [5, 6, 9]


def test_a_batch_that_takes_no_step_leaves_no_trace() -> None:
    table = LearnedTable(DIM, initial=Initial(2, STD), max_rows=100)
    table.take(array([1, 2, 3]))
    assert len(table) == 0
    assert len(table.touched()[0]) == 0


def test_a_step_moves_no_row_farther_than_its_bound() -> None:
    table = LearnedTable(DIM, initial=Initial(2, STD), max_rows=100)
    learn(table, array([1]), np.full((1, DIM), 1e15, np.float32), lr=0.1)
    moved = table.gather(array([1])).numpy() - initial_vectors(array([1]), DIM, Initial(2, STD))
    assert np.linalg.norm(moved) <= 0.1 * math.sqrt(DIM) * (1 + 1e-5)
