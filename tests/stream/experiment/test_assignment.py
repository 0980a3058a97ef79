"""Users are divided as the shares say, independently between experiments, and as few as can be move."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from xxhash import xxh3_64

from stream.experiment.assignment import Assignment

USERS = [f"user-{number}" for number in range(20_000)]


def assigned(shares: Mapping[str, float], salt: str = "s") -> list[str]:
    assignment = Assignment(shares, salt=salt)
    return [assignment.arm(user) for user in USERS]


@pytest.mark.parametrize(
    "shares",
    [
        {"a": 1.0, "b": 1.0},
        {"a": 90.0, "b": 10.0},
        {"a": 0.001, "b": 0.999},
        {"a": 0.5, "nobody": 0.0, "b": 0.2, "c": 0.3},
        {"nobody": 0.0, "b": 1.0, "none": 0.0},
    ],
)
def test_shares_hold(shares: dict[str, float]) -> None:
    found = Counter(assigned(shares))
    some = {name: share for name, share in shares.items() if share > 0}
    assert found.keys() <= some.keys()
    expected = [len(USERS) * share / sum(some.values()) for share in some.values()]
    if len(some) > 1:
        assert chisquare([found[name] for name in some], expected).pvalue > 1e-4


@pytest.mark.long
def test_balance_is_that_of_chance_over_many_salts() -> None:
    users = USERS[:1000]
    tests = []
    for salt in range(200):
        assignment = Assignment({"a": 1, "b": 2, "c": 1}, salt=str(salt))
        found = Counter(map(assignment.arm, users))
        tests.append(chisquare([found["a"], found["b"], found["c"]], [250, 500, 250]).pvalue)
    assert 0.01 < sum(p <= 0.05 for p in tests) / len(tests) < 0.10
    assert 0.4 < sum(tests) / len(tests) < 0.6


def test_another_salt_is_another_independent_experiment() -> None:
    pairs = Counter(zip(assigned({"a": 1, "b": 1}, "one"), assigned({"a": 1, "b": 3}, "two"), strict=True))
    table = [[pairs[first, second] for second in "ab"] for first in "ab"]
    assert chi2_contingency(table).pvalue > 1e-3
    assert min(map(min, table)) > 2000


@pytest.mark.parametrize(("before", "after"), [(10.0, 20.0), (20.0, 10.0), (0.0, 15.0), (50.0, 0.0)])
def test_a_ramp_moves_only_users_into_or_out_of_the_arm_that_is_ramped(before: float, after: float) -> None:
    old, new = assigned({"a": before, "b": 45, "c": 45}), assigned({"a": after, "b": 45, "c": 45})
    moved = Counter((was, now) for was, now in zip(old, new, strict=True) if was != now)
    assert moved
    assert all((now if after > before else was) == "a" for was, now in moved)
    least = abs(before / (before + 90) - after / (after + 90)) * len(USERS)
    assert abs(moved.total() - least) < 5 * math.sqrt(least)


@pytest.mark.long
def test_an_arm_depends_on_the_user_alone_whatever_the_order_of_the_arms() -> None:
    shares = {"a": 1.0, "b": 2.0, "c": 3.0}
    expected = assigned(shares)
    for order in itertools.permutations(shares):
        assert assigned({name: shares[name] for name in order}) == expected
        break_at = 500
        assert [Assignment(shares, salt="s").arm(user) for user in USERS[:break_at]] == expected[:break_at]


def test_it_is_what_the_documentation_says() -> None:
    """Written again, from docs/experiments.md, and beside values that are fixed for good."""

    def arm(user: str, salt: str, shares: Mapping[str, float]) -> str:
        def race(name: str) -> float:
            digest = int.from_bytes(xxh3_64(f"{salt}:{name}:{user}".encode()).digest(), "big")
            return -math.log((digest + 1) / 2**64) / shares[name]

        return min((name for name in shares if shares[name] > 0), key=race)

    shares = {"a": 3.0, "b": 1.0, "ö": 0.5}
    assignment = Assignment(shares, salt="spring")
    assert all(assignment.arm(user) == arm(user, "spring", shares) for user in USERS[:1000])
    fixed = Assignment({"sam": 1, "din": 1}, salt="spring-test")
    assert "".join(fixed.arm(f"u{number}")[0] for number in range(1, 13)) == "sddsdddsddsd"


@given(user=st.text(max_size=20), salt=st.text(max_size=10), share=st.floats(1e-9, 1e9))
def test_any_user_is_in_some_arm(user: str, salt: str, share: float) -> None:
    assert Assignment({"a": share, "b": 1, "c": 0}, salt=salt).arm(user) in {"a", "b"}
