"""The key index against a dict."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.embedding.key_index import KeyIndex, unique_in_order

# Few distinct keys meet often; the others differ in their lowest or highest bits only.
keys = st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1), st.integers(0, 50).map(lambda high: high << 58))
batches = st.lists(st.lists(keys, max_size=80), max_size=8)


def array(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


@given(batches, st.integers(0, 100))
def test_rows_are_those_of_a_dict_filled_in_order(batches: list[list[int]], max_keys: int) -> None:
    index, oracle = KeyIndex(max_keys), dict[int, int]()
    for batch in batches:
        before = [oracle.get(key, -1) for key in batch]
        assert index.lookup(array(batch)).tolist() == before
        for key in batch:
            if key and len(oracle) < max_keys:
                oracle.setdefault(key, len(oracle))
        assert index.admit(array(batch)).tolist() == [oracle.get(key, -1) for key in batch]
        assert len(index) == len(oracle)
    assert index.keys.tolist() == list(oracle)


@pytest.mark.long
@given(st.lists(st.tuples(st.booleans(), st.lists(keys, max_size=80)), max_size=12), st.integers(0, 100))
def test_rows_that_keys_have_left_are_given_again_the_lowest_first(
    batches: list[tuple[bool, list[int]]], max_keys: int
) -> None:
    index, oracle = KeyIndex(max_keys), dict[int, int]()
    for leaving, batch in batches:
        if leaving:
            index.remove(array(list(dict.fromkeys(batch))))
            for key in batch:
                oracle.pop(key, None)
        else:
            index.admit(array(batch))
            for key in batch:
                if key and key not in oracle and len(oracle) < max_keys:
                    oracle[key] = min(set(range(len(oracle) + 1)) - set(oracle.values()))
        assert index.lookup(array(batch)).tolist() == [oracle.get(key, -1) for key in batch]
        assert len(index) == len(oracle)
        held = np.flatnonzero(index.keys)
        assert dict(zip(index.keys[held].tolist(), held.tolist(), strict=True)) == oracle
    copy = KeyIndex(max_keys)
    copy.place(array([*oracle]), np.array([*oracle.values()], np.int64))
    for each in (index, copy):
        each.admit(array([*range(1000, 1020)]))
    asked = array([*oracle, *range(1000, 1020)])
    assert copy.lookup(asked).tolist() == index.lookup(asked).tolist()


def test_it_grows_over_many_doublings_and_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    index, keys = KeyIndex(), rng.integers(1, 2**64, 200_000, np.uint64)
    for part in np.array_split(keys, 37):
        index.admit(part)
    distinct, inverse = unique_in_order(keys)
    assert (index.keys == distinct).all()
    assert (index.lookup(keys) == inverse).all()
    assert (index.lookup(keys ^ np.uint64(1)) == -1).all()


def test_any_shape_is_looked_up() -> None:
    index = KeyIndex()
    index.admit(array([7, 8]))
    assert index.lookup(array([8, 0, 9, 7]).reshape(2, 2)).tolist() == [[1, -1], [-1, 0]]
    assert index.lookup(np.zeros((3, 0), np.uint64)).shape == (3, 0)


def test_the_view_of_the_keys_cannot_be_written() -> None:
    index = KeyIndex()
    index.admit(array([7]))
    with pytest.raises(ValueError, match="read-only"):
        index.keys[0] = 8


@pytest.mark.long
def test_a_lookup_beside_keys_that_come_and_go_finds_the_rows_of_those_that_stay() -> None:
    index = KeyIndex()
    staying = np.arange(1, 5_001, dtype=np.uint64)
    rows = index.admit(staying)
    wrong: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            wrong.append(int(np.count_nonzero(index.lookup(staying) != rows)))

    reader = threading.Thread(target=look)
    reader.start()
    for start in range(10_000, 500_000, 1_000):
        passing = np.arange(start, start + 1_000, dtype=np.uint64)
        index.admit(passing)
        index.remove(passing)
    done.set()
    reader.join()
    assert len(wrong) > 1
    assert not any(wrong)
    assert len(index.keys) == 6_000


def test_a_lookup_beside_an_admission_finds_the_right_row_or_none() -> None:
    index = KeyIndex()
    keys = np.random.default_rng(0).permutation(np.arange(1, 200_001, dtype=np.uint64))
    wrong: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            rows = index.lookup(keys)
            wrong.append(int(np.count_nonzero((rows != np.arange(len(keys))) & (rows >= 0))))

    reader = threading.Thread(target=look)
    reader.start()
    for batch in np.split(keys, 400):
        index.admit(batch)
    done.set()
    reader.join()
    assert len(wrong) > 1
    assert not any(wrong)
