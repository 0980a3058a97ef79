"""Origins: what an offset is an offset of, told apart by cluster, name, id and number of partitions."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.schema.position import Difference, LogIdentity, Origin, decode_origin

LOG = LogIdentity("cluster-1", "shop-clicks", "a1B2", 8)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, ""),
        ({"cluster": "cluster-2"}, "cluster"),
        ({"topic": "other-clicks"}, "topic"),
        ({"topic_id": "c3D4"}, "id"),
        ({"topic_id": ""}, ""),
        ({"partitions": 16}, "partitions"),
        ({"topic_id": "c3D4", "partitions": 16}, "id"),
    ],
)
def test_a_log_differs_by_what_has_changed(changes: dict[str, object], difference: Difference) -> None:
    assert Origin(LOG).difference(msgspec.structs.replace(LOG, **changes)) == difference


@given(st.builds(Origin, st.builds(LogIdentity, st.text(), st.text(), st.text(), st.integers(0, 2**31)), st.integers()))
def test_an_origin_comes_back_as_it_was_written(origin: Origin) -> None:
    try:
        text = origin.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair is in no name
    assert decode_origin(text) == origin


@pytest.mark.parametrize("text", [None, "", "offset metadata of another program", "{}", "[1]", '[["c","t","i"]]'])
def test_what_another_program_has_written_is_no_origin(text: str | None) -> None:
    assert decode_origin(text) is None
