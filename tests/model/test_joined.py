"""Examples of one request, joined, are learned as they would be one by one in the same step."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.example import LATE_CLICK, Example, joined
from model.learner import Learner
from model.spec import preset
from tests.model.worlds import NOW, example, featured


def parts(whole: Example, cuts: list[int]) -> list[Example]:
    """Cut an example's candidates into several examples."""
    bounds = [0, *sorted(cuts), len(whole.items)]
    places = [slice(start, end) for start, end in pairwise(bounds) if end > start]
    names = "items", "categories", "labels", "numbers", "positions", "attributes"
    given = {name: array for name in names if (array := getattr(whole, name)) is not None}
    return [replace(whole, **{name: array[place] for name, array in given.items()}) for place in places]


@given(cuts=st.lists(st.integers(1, 9), max_size=5), seed=st.integers(0, 2**32), features=st.booleans())
@settings(max_examples=50)
def test_joining_undoes_cutting(cuts: list[int], seed: int, features: bool) -> None:
    whole = (featured if features else example)(np.random.default_rng(seed), 5, 10)
    found = joined(parts(replace(whole, positions=np.arange(10, dtype=np.uint16)), cuts))
    for name in ("sequence", "items", "categories", "labels", "numbers", "attributes"):
        one, other = getattr(found, name), getattr(whole, name)
        assert (one is other is None) or one.tobytes() == other.tobytes()
    assert found.ts == NOW


@pytest.mark.parametrize("kind", ["sam-40", "din-40", "mean-40"])
def test_a_step_on_joined_examples_is_one_on_all_of_them(kind: str) -> None:
    rng = np.random.default_rng(0)
    apart, together = Learner(preset(kind)), Learner(preset(kind))
    for _ in range(4):
        requests = [example(rng, int(rng.integers(0, 60)), 6) for _ in range(3)]
        requests[0] = replace(requests[0], labels=np.array([0, 1, LATE_CLICK, 1, 0, 0], np.float32))
        cut = [parts(each, [1, 2, 3]) for each in requests]
        one_by_one = apart.learn([part for each in cut for part in each])
        at_once = together.learn([joined(each) for each in cut])
        np.testing.assert_allclose(np.concatenate(one_by_one), np.concatenate(at_once), rtol=1e-4)
    states = apart.state(), together.state()
    for name, array in states[0].items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(states[1][name], array, rtol=1e-2, atol=2e-4, err_msg=name)
        else:
            assert (states[1][name] == array).all(), name
