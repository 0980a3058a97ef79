"""Equal inputs get equal scores, to the bit: in every place of a list, whatever is scored beside them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.example import Example
from model.kernels import native
from model.learner import Learner
from model.scorer import Scorer
from model.spec import PRESETS, preset
from tests.model.worlds import example, item_keys

EXPECTED = os.environ.get("SAMSTREAM_EXPECTED")
"""In the processes that these tests start: "torch" or "compiled"."""

FEW = ("sam-3p+", "din", "counts", "sdim", "sasrec", "mimn")
"""Presets that those processes try: together they call every function of the kernels."""

QUICK = ("sam", "din", "counts", "longvq")

BUILT = any(Path(native.__file__).parent.glob("_passes*"))
INSTRUCTIONS = ("default", "avx2", "avx512")
"""What torch can be told to use, narrowest first."""


@cache
def served(name: str) -> Scorer:
    """Return a scorer of this preset after some training, so that scores depend on all that they can depend on."""
    learner, rng = Learner(preset(name), seed=3), np.random.default_rng(4)
    for _ in range(4):
        learner.learn([example(rng, int(rng.integers(0, 60)), int(rng.integers(1, 8))) for _ in range(16)])
    learner.begin_epoch(1)
    scorer = Scorer(preset(name), seed=3)
    scorer.apply(learner.base("arm"))
    return scorer


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choosing(one: Example, places: list[int]) -> Example:
    """Return the request with the candidates of these places only, one perhaps several times."""
    numbers = None if one.numbers is None else one.numbers[places]
    return Example(one.sequence, one.ts, one.items[places], one.categories[places], numbers=numbers)


def assert_alike(scorer: Scorer, batch: list[Example]) -> None:
    """Assert that each candidate gets the very score that it gets alone."""
    for one, scores in zip(batch, scorer.score(batch), strict=True):
        alone = {}
        for place, score in enumerate(scores):
            asked = (one.items[place], one.categories[place])
            if asked not in alone:
                [[alone[asked]]] = scorer.score([choosing(one, [place])])
            assert score.tobytes() == alone[asked].tobytes(), f"place {place} of {len(scores)}, {len(batch)} users"


@pytest.mark.skipif(EXPECTED is None, reason="whatever this machine has")
def test_the_kernel_is_the_one_that_is_meant() -> None:
    assert torch.backends.cpu.get_cpu_capability() == os.environ["ATEN_CPU_CAPABILITY"].upper()
    library = native.library()
    if EXPECTED == "torch":
        assert library is None
    else:
        assert library is not None
        wide = os.environ["ATEN_CPU_CAPABILITY"] == "avx512"
        assert ("avx512" in Path(library._name).name) == wide


@pytest.mark.parametrize(
    "name",
    FEW
    if EXPECTED is not None
    else [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in PRESETS],
)
@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.sampled_from([0, 1, 2, 7, 31, 64, 65, 130, 257]), min_size=1, max_size=5),
    candidates=st.integers(1, 45),
    even=st.booleans(),
    count=st.integers(1, 3),
)
@settings(max_examples=20 if EXPECTED is None else 8)
def test_a_candidates_score_depends_on_nothing_beside_it(
    name: str, seed: int, lengths: list[int], candidates: int, even: bool, count: int
) -> None:
    rng = np.random.default_rng(seed)
    counts = [candidates if even else int(rng.integers(1, candidates + 1)) for _ in lengths]
    batch = [example(rng, *sizes, labelled=False) for sizes in zip(lengths, counts, strict=True)]
    with threads(count):
        assert_alike(served(name), batch)


@pytest.mark.parametrize("name", ["sam-3p+", "din", "mean"])
def test_so_it_is_in_lists_that_threads_divide(name: str) -> None:
    rng, scorer = np.random.default_rng(5), served(name)
    batch = [example(rng, length, 110, labelled=False) for length in (1000, 641)]
    assert len(batch[0].items) * len(batch[0].sequence) >= native.THREADED
    expected = [scores.tobytes() for scores in scorer.score(batch)]
    for count in (1, 2, 3):
        with threads(count):
            assert [scores.tobytes() for scores in scorer.score(batch)] == expected
            assert_alike(scorer, [choosing(batch[0], [0, 1, 2] * 11)])


@given(seed=st.integers(0, 2**32), length=st.integers(0, 90), candidates=st.integers(2, 60))
@settings(max_examples=40 if EXPECTED is None else 10)
def test_items_with_equal_features_are_equally_good(seed: int, length: int, candidates: int) -> None:
    one = example(np.random.default_rng(seed), length, candidates, labelled=False)
    unknown = item_keys(np.arange(1000, 1000 + candidates))
    [scores] = served("counts").score([Example(one.sequence, one.ts, unknown, np.zeros(candidates, np.uint32))])
    assert len({score.tobytes() for score in scores}) == 1


def _environments() -> list[tuple[str, bool]]:
    """Return instruction set and whether the compiled kernel may run, for all but what this process does itself."""
    here = torch.backends.cpu.get_cpu_capability().lower()
    known = INSTRUCTIONS[: INSTRUCTIONS.index(here) + 1] if here in INSTRUCTIONS else (here,)
    every = [(name, compiled) for name in known for compiled in (False, True) if not compiled or name != "default"]
    return [each for each in every if each != (here, native.library() is not None)]


@pytest.mark.slow
@pytest.mark.skipif(EXPECTED is not None, reason="this is such a process")
@pytest.mark.parametrize(("instructions", "compiled"), _environments())
def test_so_it_is_with_every_kernel_and_instruction_set(instructions: str, compiled: bool) -> None:
    if compiled and not BUILT:
        pytest.skip("the kernel is not built")
    environment = os.environ | {
        "ATEN_CPU_CAPABILITY": instructions,
        "MKL_ENABLE_INSTRUCTIONS": instructions.upper(),
        "SAMSTREAM_NATIVE": "1" if compiled else "0",
        "OMP_WAIT_POLICY": "PASSIVE",  # other processes may want the cores
        "SAMSTREAM_EXPECTED": "compiled" if compiled else "torch",
    }
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
