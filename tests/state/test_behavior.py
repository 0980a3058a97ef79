"""Keys of string ids and packed records."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.behavior import BEHAVIOR, action_key, behaviors, category_key, from_bytes, item_key

APPLE = 0x517A430DCF1F8A00

_rows = st.lists(
    st.tuples(
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**16 - 1),
        st.integers(-(2**63), 2**63 - 1),
    ),
    max_size=20,
)


@given(st.text())
def test_keys_fit_their_field_and_only_none_is_zero(text: str) -> None:
    assert 0 < item_key(text) < 2**64
    for key, bits in ((category_key(text), 32), (action_key(text), 16)):
        assert (key == 0) == (text == "")
        assert 0 <= key < 2**bits


@given(st.text())
def test_a_key_depends_on_the_text_alone(text: str) -> None:
    again = text.encode().decode()
    assert (item_key(text), category_key(text), action_key(text)) == (
        item_key(again),
        category_key(again),
        action_key(again),
    )


def test_keys_never_change_between_releases() -> None:
    # What is on disk and in Kafka depends on them.
    assert item_key("apple") == APPLE
    assert category_key("apple") == APPLE & 0xFFFF_FFFF
    assert action_key("apple") == APPLE & 0xFFFF


def test_distinct_ids_have_distinct_keys() -> None:
    assert len({item_key(f"item-{number}") for number in range(100_000)}) == 100_000


def test_a_record_is_22_packed_little_endian_bytes() -> None:
    packed = behaviors([(0x0102030405060708, 0x0A0B0C0D, 0x0E0F, 0x1112131415161718)]).tobytes()
    assert packed.hex() == "08070605040302010d0c0b0a0f0e1817161514131211"


@given(_rows)
def test_packed_records_read_back(rows: list[tuple[int, int, int, int]]) -> None:
    array = behaviors(rows)
    assert array.dtype == BEHAVIOR
    assert array.shape == (len(rows),)
    assert from_bytes(array.tobytes()).tolist() == rows


def test_reading_copies_nothing() -> None:
    buffer = behaviors([(1, 2, 3, 4), (5, 6, 7, 8)]).tobytes()
    assert np.shares_memory(from_bytes(buffer), np.frombuffer(buffer, dtype=np.uint8))
    assert from_bytes(memoryview(buffer)[22:]).tolist() == [(5, 6, 7, 8)]


@pytest.mark.parametrize("size", [1, 21, 23, 45])
def test_a_cut_record_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        from_bytes(bytes(size))
