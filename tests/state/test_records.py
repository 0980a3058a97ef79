"""Records of layouts that change: read as another layout, what stands in both is the same, and the rest is missing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.behavior import BEHAVIOR
from state.feature import Feature
from state.feature_layout import FeatureLayout, parse_layout
from state.records import KEYS, NUMBERS, Fields, converted, fields_of, missing, read_records, record_of
from tests.state.support import drawn, records

Layouts = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from([NUMBERS, KEYS]), st.integers(1, 3)),
    unique_by=lambda field: field[0],
    max_size=4,
)


@given(Layouts, Layouts, st.booleans(), st.integers(0, 5))
def test_what_stands_in_both_layouts_stays_and_the_rest_is_missing(
    before: Fields, after: Fields, of_behavior: bool, count: int
) -> None:
    old, new = (record_of(fields, of_behavior=of_behavior) for fields in (before, after))
    assert (fields_of(old), fields_of(new)) == (before, after)
    given = drawn(old, 0, count)
    found = converted(given, new)
    assert found.dtype == new
    for name, kind, size in after:
        if (name, kind, size) in before:
            assert found[name].tobytes() == given[name].tobytes()
        elif kind == NUMBERS:
            assert np.isnan(found[name]).all()
        else:
            assert not found[name].any()
    if of_behavior:
        assert found[list(BEHAVIOR.names or ())].astype(BEHAVIOR).tobytes() == records(0, count).tobytes()
    assert converted(given, old) is given
    assert read_records(found.tobytes(), new, count).tobytes() == found.tobytes()


def test_records_in_which_all_is_missing() -> None:
    [found] = missing(1, record_of([("a", NUMBERS, 2), ("b", KEYS, 1)], of_behavior=True))
    assert np.isnan(found["a"]).all()
    assert (found["b"].tolist(), found["item"], found["ts"]) == ([0], 0, 0)


def test_records_without_fields_take_no_bytes_and_are_counted() -> None:
    nothing = record_of([])
    assert len(read_records(b"", nothing, 3)) == 3
    found = converted(read_records(b"", nothing, 3), record_of([("a", NUMBERS, 1)]))
    assert np.isnan(found["a"]).all()
    assert converted(found, nothing).tobytes() == b""


@pytest.mark.parametrize("count", [0, 2])
def test_bytes_that_are_not_so_many_records_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"4 bytes are not {count} records of 4 bytes"):
        read_records(b"1234", record_of([("a", KEYS, 1)]), count)


@pytest.mark.parametrize("field", [("a", "<f8", 1), ("a", NUMBERS, 0), ("a", "O", 1), ("item", KEYS, 1)])
def test_what_is_no_field_of_a_behaviour_is_refused(field: tuple[str, str, int]) -> None:
    with pytest.raises(ValueError, match="field"):
        record_of([field], of_behavior=True)


def test_a_feature_of_an_item_lies_with_candidates_and_with_behaviours() -> None:
    layout = FeatureLayout.of(
        [
            Feature("tier", "user", "category"),
            Feature("price", "item", "number"),
            Feature("tags", "item", "categories", 3),
            Feature("dwell", "behavior", "number"),
            Feature("hour", "context", "number"),
        ]
    )
    assert fields_of(layout.context) == [("hour", NUMBERS, 1), ("tier", KEYS, 1)]
    assert fields_of(layout.item) == [("price", NUMBERS, 1), ("tags", KEYS, 3)]
    assert fields_of(layout.behavior) == [("dwell", NUMBERS, 1), ("price", NUMBERS, 1), ("tags", KEYS, 3)]
    assert layout.behavior.itemsize == BEHAVIOR.itemsize + 20
    assert parse_layout(layout.text) == layout
