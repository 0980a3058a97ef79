"""The served table: what is placed beside it is not seen before it is written, and then at once."""

import queue
import threading

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.embedding.initial import Initial, initial_vectors
from model.embedding.served import PlacedRows, ServedTable

Vectors = npt.NDArray[np.float32]
DIM = 4
INITIAL = Initial(1, 0.3)
KEYS = np.arange(13, dtype=np.uint64)

changes = st.tuples(st.sets(st.integers(1, 12), max_size=8), st.sets(st.integers(1, 12), max_size=8))
steps = st.lists(st.one_of(changes, st.none()), max_size=30)


def place(table: ServedTable, keys: npt.NDArray[np.uint64], number: int, gone: npt.NDArray[np.uint64]) -> PlacedRows:
    return table.place(keys, torch.full((len(keys), DIM), float(number)), gone)


def read(table: ServedTable, keys: npt.NDArray[np.uint64]) -> Vectors:
    vectors: Vectors = table.gather(keys).numpy()
    return vectors


@pytest.mark.long
@given(steps)
def test_readers_see_what_was_written_and_nothing_that_is_only_placed(
    steps: list[tuple[set[int], set[int]] | None],
) -> None:
    """A step places a change, or writes the oldest that is placed."""
    table = ServedTable(DIM, initial=INITIAL)
    expected = initial_vectors(KEYS, DIM, INITIAL)
    placed: list[tuple[PlacedRows, list[int], list[int], int]] = []
    for number, step in enumerate([*steps, *[None] * len(steps)]):
        if step is not None:
            keys, gone = sorted(step[0]), sorted(step[1] - step[0])
            prepared = place(table, np.array(keys, np.uint64), number, np.array(gone, np.uint64))
            placed.append((prepared, keys, gone, number))
        elif placed:
            prepared, keys, gone, written = placed.pop(0)
            table.write(prepared)
            expected[keys] = written
            expected[gone] = initial_vectors(KEYS[gone], DIM, INITIAL)
        assert read(table, KEYS).tobytes() == expected.tobytes()
    assert not placed
    assert len(table) == np.count_nonzero((expected != initial_vectors(KEYS, DIM, INITIAL)).any(1))


def test_a_key_goes_although_what_took_it_before_is_never_written() -> None:
    table = ServedTable(DIM, initial=INITIAL)
    keys = KEYS[1:4]
    table.write(place(table, keys, 7, KEYS[:0]))
    place(table, KEYS[:0], 8, keys)
    table.write(place(table, KEYS[:0], 9, keys))
    assert read(table, keys).tobytes() == initial_vectors(keys, DIM, INITIAL).tobytes()
    assert len(table) == 0


@pytest.mark.long
def test_readers_beside_keys_that_come_and_go_see_one_change_after_the_other() -> None:
    """Each change brings 300 keys, which the next but one takes away; rows are used again, and the table grows."""
    table = ServedTable(DIM, initial=INITIAL)
    numbers = range(1, 200)
    keys = {n: np.arange(100 * n, 100 * n + 300 + 3 * n, dtype=np.uint64) for n in numbers}
    ready: queue.Queue[PlacedRows] = queue.Queue(3)

    def prepare() -> None:
        for number in numbers:
            gone = (
                np.setdiff1d(keys[number - 2], np.union1d(keys[number], keys[number - 1])) if number > 2 else KEYS[:0]
            )
            ready.put(place(table, keys[number], number, gone))

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    asked = np.arange(1, 30_000, dtype=np.uint64)
    expected = initial_vectors(asked, DIM, INITIAL)
    initial = expected.copy()
    for number in numbers:
        table.write(ready.get(timeout=60))
        if number > 2:
            gone = np.setdiff1d(keys[number - 2], np.union1d(keys[number], keys[number - 1]))
            expected[gone.astype(int) - 1] = initial[gone.astype(int) - 1]
        expected[keys[number].astype(int) - 1] = number
        for _ in range(3):
            assert read(table, asked).tobytes() == expected.tobytes()
    thread.join()
