"""The memory of sample ids: repeats are recognised, and it does not grow without end."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.schema.dedup import RecentIds, owner_of, sample_ids
from stream.schema.events import RequestKey


def ids(*numbers: int) -> npt.NDArray[np.uint64]:
    return np.array(numbers, dtype=np.uint64)


def test_an_id_is_new_once() -> None:
    seen = RecentIds(window=100)
    assert seen.add(ids(1, 2, 1)).tolist() == [True, True, False]
    assert seen.add(ids(2, 3)).tolist() == [False, True]
    assert seen.add(ids()).tolist() == []
    assert len(seen) == 3


def test_ids_have_all_their_64_bits() -> None:
    seen = RecentIds(window=100)
    assert seen.add(ids(2**64 - 1, 2**63, 0)).all()
    other = RecentIds(window=100)
    other.restore(seen.to_array())
    assert not other.add(ids(2**64 - 1, 2**63, 0)).any()
    assert other.add(ids(2**64 - 2)).all()


@given(st.integers(1, 12), st.lists(st.lists(st.integers(0, 60), max_size=6), max_size=60), st.sets(st.integers(0, 60)))
def test_the_newest_are_remembered_and_what_never_came_is_new(
    window: int, batches: list[list[int]], restarts: set[int]
) -> None:
    seen = RecentIds(window)
    newest: list[int] = []
    ever: set[int] = set()
    for step, batch in enumerate(batches):
        if step in restarts:
            saved = seen.to_array()
            seen = RecentIds(window)
            seen.restore(saved)
        new = seen.add(ids(*batch)).tolist()
        for number, is_new in zip(batch, new, strict=True):
            if number in newest[-window:]:
                assert not is_new, "it was among the newest"
            if number not in ever:
                assert is_new, "it never came"
            if number in newest:
                newest.remove(number)
            newest.append(number)
            ever.add(number)


@pytest.mark.parametrize("restored", [False, True])
def test_it_keeps_twice_as_many_as_it_must_and_three_times_after_a_restart(restored: bool) -> None:
    seen = RecentIds(window=50)
    if restored:
        before = RecentIds(window=50)
        before.add(ids(*range(10_000, 10_050)))
        before.add(ids(*range(20_000, 20_049)))
        seen.restore(before.to_array())
    most = 0
    for start in range(0, 2000, 10):
        seen.add(ids(*range(start, start + 10)))
        most = max(most, len(seen))
    assert 50 <= most <= (150 if restored else 100)
    assert len(seen) <= 100
    assert seen.add(ids(0)).all(), "what is long ago is forgotten"


def test_ids_of_samples_differ_by_request_and_item() -> None:
    items = np.arange(1, 1001, dtype=np.uint64)
    requests = [RequestKey(f"user-{number % 5}", f"request-{number // 5}") for number in range(50)]
    every = np.concatenate([sample_ids(request, items) for request in requests])
    assert RecentIds(window=10**6).add(every).all()
    assert sample_ids(requests[7], items).tolist() == sample_ids(requests[7], items).tolist()


def test_what_is_forgotten_is_new_again() -> None:
    seen = RecentIds(window=2)
    seen.add(np.array([1, 2], dtype=np.uint64))
    seen.add(np.array([3], dtype=np.uint64))
    seen.forget(np.array([1, 3, 9], dtype=np.uint64))
    assert seen.add(np.array([1, 2, 3], dtype=np.uint64)).tolist() == [True, False, True]


def test_the_ids_of_an_owner_can_be_forgotten_also_after_a_restart_and_no_others() -> None:
    seen, mine, other = RecentIds(window=4), owner_of("me"), owner_of("other")
    seen.add(ids(1, 2), mine)
    seen.add(ids(3, 4, 5), other)  # those before are old now
    seen.add(ids(6), mine)
    again = RecentIds(window=4)
    again.restore(seen.to_array())
    for known in (seen, again):
        known.forget_owners({mine})
        assert known.add(ids(1, 2, 6), mine).all()
        assert not known.add(ids(3, 4, 5), other).any()


def test_ids_of_a_checkpoint_from_before_owners_are_recognised() -> None:
    seen = RecentIds(window=10)
    seen.restore(ids(1, 2))
    assert seen.add(ids(1, 2, 3)).tolist() == [False, False, True]
