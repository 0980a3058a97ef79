"""Which copies a worker keeps: those of partitions that it would be given, and no other."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.worker.standby_plan import partitions_of, standby_partitions


def held(members: int, partitions: int) -> list[frozenset[int]]:
    return [frozenset(partitions_of(place, members, partitions)) for place in range(members)]


@given(st.integers(1, 12), st.integers(1, 40))
def test_every_partition_has_one_owner_and_shares_differ_by_one_at_most(members: int, partitions: int) -> None:
    shares = held(members, partitions)
    assert sorted(number for share in shares for number in share) == list(range(partitions))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [len(share) for share in shares] == sorted(map(len, shares), reverse=True)


@given(st.integers(1, 7), st.integers(1, 24), st.integers(0, 3))
def test_whoever_dies_the_others_have_copies_of_what_they_are_given_and_of_nothing_else(
    members: int, partitions: int, deaths: int
) -> None:
    before = held(members, partitions)
    needed: list[set[int]] = [set() for _ in before]
    for dead_count in range(1, min(deaths, members - 1) + 1):
        for dead in combinations(range(members), dead_count):
            living = [place for place in range(members) if place not in dead]
            for place, share in zip(living, held(len(living), partitions), strict=True):
                needed[place] |= share - before[place]
    for place, wanted in enumerate(needed):
        assert standby_partitions(before, place, partitions, deaths) == sorted(wanted)


@pytest.mark.parametrize(
    ("members", "copies"), [(1, [[]]), (2, [[2, 3], [0, 1]]), (3, [[], [0, 1, 3], [2]])], ids=["one", "two", "three"]
)
def test_four_partitions(members: int, copies: list[list[int]]) -> None:
    before = held(members, 4)
    assert [standby_partitions(before, place, 4, 1) for place in range(members)] == copies


def test_a_worker_without_a_partition_is_a_spare_for_those_before_it() -> None:
    assert standby_partitions(held(3, 2), 2, 2, 1) == [1]
    assert standby_partitions(held(3, 2), 2, 2, 2) == [0, 1]
