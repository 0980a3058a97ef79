"""A sequence is found by its name, in the fold that named it and in others; never another one."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.behavior import BEHAVIOR, behaviors, checksum
from state.feature import Feature
from state.feature_layout import FeatureLayout
from state.layout import CHUNK
from state.partition import Partition
from tests.state.support import drawn, records

LENGTH, SLACK = 20, 70


def open_small(path: Path) -> Partition:
    return Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=5_000)


Sizes = st.lists(st.integers(1, 40) | st.integers(1, 200), min_size=1, max_size=8)


@pytest.mark.long
@settings(max_examples=60)
@given(Sizes, st.integers(0, 400), st.integers(0, 400), st.booleans())
def test_what_a_fold_named_is_found_in_one_that_began_earlier_or_later_unless_it_is_overwritten(
    sizes: list[int], namer: int, finder: int, committed: bool
) -> None:
    """`namer` and `finder`: the places of the log where the two folds began."""
    every = records(0, sum(sizes))
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        names, finds = open_small(Path(one) / "state"), open_small(Path(other) / "state")
        named: list[tuple[int, int, bytes, int]] = [(0, checksum(behaviors([])), b"", 0)]
        end = 0
        for size in sizes:
            for partition, begin in ((names, namer), (finds, finder)):
                partition.sequences.append("u", every[max(begin, end) : max(begin, end + size)])
                if committed:
                    partition.commit({})
            end += size
            sequence = names.sequences.read("u")
            named.append((names.sequences.count("u"), checksum(sequence), sequence.tobytes(), end))
            for seen, known_by, expected, then in named:
                found = finds.sequences.find("u", seen, known_by)
                first = then - min(seen, LENGTH)
                if found is not None:
                    assert found.tobytes() == expected
                if first >= finder and end - then <= SLACK:
                    assert found is not None
        names.close()
        finds.close()


def test_an_overwritten_sequence_and_an_unknown_one_are_not_found(tmp_path: Path) -> None:
    partition = open_small(tmp_path / "state")
    partition.sequences.append("u", records(0, 30))
    name = checksum(partition.sequences.read("u"))
    assert partition.sequences.find("u", 30, name) is not None
    assert partition.sequences.find("u", 30, name + 1) is None
    assert partition.sequences.find("somebody", 30, name) is None
    assert partition.sequences.find("u", 2**62, name) is not None, "another fold may count from elsewhere"
    partition.sequences.append("u", records(30, 30 + SLACK + 3 * CHUNK))
    assert partition.sequences.find("u", 30, name) is None
    partition.close()


def test_features_of_callers_are_no_part_of_a_name() -> None:
    layout = FeatureLayout.of([Feature("price", "item", "number"), Feature("brand", "behavior", "category")])
    wide = drawn(layout.behavior, 0, 9)
    plain = wide[list(BEHAVIOR.names or ())].astype(BEHAVIOR)
    assert checksum(wide) == checksum(plain) == checksum(records(0, 9)) != checksum(records(0, 8))
    assert checksum(wide[3:]) == checksum(plain[3:])
    assert checksum(wide[:0]) == checksum(plain[:0])
