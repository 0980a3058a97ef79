"""Updates as bytes and as parts: what comes back, and what hostile bytes lead to."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import UpdateRefused
from model.serialization.parts import Assembler, Part, split
from model.serialization.update import Update, decode, encode


def update(
    version: int = 1,
    *,
    epoch: int = 1,
    arm: str = "sam",
    rows: int = 50,
    kind: Literal["base", "delta"] = "delta",
) -> Update:
    rng = np.random.default_rng(version)
    tensors = {
        "head.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "scalar": np.array(2.5, np.float32),
        "item/keys": rng.integers(1, 2**64, rows, np.uint64),
        "item/values": rng.normal(size=(rows, 4)).astype(np.float32),
    }
    return Update(arm, kind, epoch, version, "ab12", tensors)


def refusal(action: Callable[[], object]) -> str | None:
    """Return the reason for which an action was refused, None when it was not."""
    try:
        action()
    except UpdateRefused as refused:
        return refused.reason
    return None


def assert_equal(got: Update | None, sent: Update) -> None:
    assert got is not None
    for name in ("arm", "kind", "at", "fingerprint"):
        assert getattr(got, name) == getattr(sent, name)
    assert got.tensors.keys() == sent.tensors.keys()
    for name, tensor in sent.tensors.items():
        assert got.tensors[name].dtype == tensor.dtype
        assert np.array_equal(got.tensors[name], tensor)


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_an_update_comes_back_as_it_was(rows: int) -> None:
    assert_equal(decode(encode(update(rows=rows))), update(rows=rows))


def test_what_is_larger_than_allowed_is_refused_unread() -> None:
    payload = encode(update())
    assert refusal(lambda: decode(payload, max_bytes=len(payload) - 1)) == "size"


def file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


META = {"arm": "a", "kind": "base", "epoch": "1", "version": "0", "fingerprint": "f"}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 2**60) + b'{"__metadata__":{}}',
        file({}),
        file([]),
        file({"__metadata__": {**META, "epoch": "x"}}),
        file({"__metadata__": {**META, "epoch": "-1"}}),
        file({"__metadata__": {**META, "version": "9" * 5000}}),
        file({"__metadata__": {**META, "kind": "both"}}),
        file({"__metadata__": {"arm": "a"}}),
        file({"__metadata__": META, "t": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"12"),
        file({"__metadata__": META, "t": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"1234"),
        file({"__metadata__": META, "t": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        file({"__metadata__": META, "t": {"dtype": "F32", "shape": [0] * 70, "data_offsets": [0, 0]}}),
        file(b'{"t":' + b"[" * 100_000),
        file(b'{"__metadata__":{"arm":"\xff"}}'),
    ],
)
def test_bytes_that_are_no_update_are_refused(payload: bytes) -> None:
    assert refusal(lambda: decode(payload)) == "malformed"


@pytest.mark.long
@settings(max_examples=300)
@given(st.data())
def test_damaged_bytes_decode_or_are_refused_and_nothing_else(data: st.DataObject) -> None:
    payload = bytearray(encode(update(rows=2)))
    for _ in range(data.draw(st.integers(1, 4))):
        # The header is where damage has the most ways to go.
        at = data.draw(st.integers(0, min(len(payload), 400) - 1))
        payload[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    assert refusal(lambda: decode(bytes(payload))) in (None, "malformed")


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 2**16))
def test_damaged_parts_are_refused_or_wait(noise: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    records = split(update(), 400)
    record = bytearray(records[int(rng.integers(len(records)))])
    record[int(rng.integers(60))] = int(rng.integers(256))
    assembler = Assembler(["sam"])
    for damaged in (noise, bytes(record)):
        assert refusal(partial(assembler.add, damaged)) in (None, "malformed", "size")


@pytest.mark.parametrize("max_bytes", [120, 137, 500, 10_000])
def test_parts_fit_and_make_the_update_whole_in_any_order(max_bytes: int) -> None:
    sent = update()
    records = split(sent, max_bytes)
    assert max(map(len, records)) <= max_bytes
    for order in (records, records[::-1], [record for record in records for _ in "xx"]):
        assembler = Assembler(["sam"])
        got = [whole for record in order if (whole := assembler.add(record))]
        assert_equal(got[0], sent)
        assert len(got) == 1 or max_bytes == 10_000


def test_a_record_too_small_for_its_header_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="allow larger"):
        split(update(), 90)


def test_a_newer_update_replaces_a_half_one_and_an_older_one_does_not() -> None:
    assembler = Assembler(["sam"])
    old, new = split(update(5), 300), split(update(6, kind="base"), 300)
    assert assembler.add(old[0]) is None
    assert assembler.add(new[0]) is None
    assert assembler.dropped == 1
    assert refusal(lambda: assembler.add(old[1])) == "stale"
    whole = [assembler.add(record) for record in new[1:]]
    assert_equal(whole[-1], update(6, kind="base"))


def test_half_an_update_of_another_epoch_is_in_nobodys_way() -> None:
    assembler = Assembler(["sam"])
    for epoch in (7, 1, 9):
        assembler.add(split(update(50, epoch=epoch), 300)[0])
        whole = [assembler.add(record) for record in split(update(6, epoch=5), 300)]
        assert_equal(whole[-1], update(6, epoch=5))
    assert assembler.dropped == 2, "only two unfinished ones are kept"


def test_arms_are_put_together_side_by_side_and_unwanted_ones_ignored() -> None:
    assembler = Assembler(["sam", "din"])
    sent = [update(3), update(4, arm="din"), update(5, arm="other")]
    parts = [split(one, 300) for one in sent]
    got = [whole for records in zip(*parts, strict=True) for record in records if (whole := assembler.add(record))]
    assert [one.arm for one in got] == ["sam", "din"]


def test_claims_beyond_the_memory_allowed_are_refused_before_anything_is_held() -> None:
    first, second = split(update(1), 300), split(update(1, arm="din"), 300)
    total = msgspec.msgpack.decode(first[0], type=Part).total
    assembler = Assembler(["sam", "din"], max_bytes=2 * total - 1)
    assembler.add(first[0])
    assert refusal(lambda: assembler.add(second[0])) == "size"
    for record in first[1:]:
        whole = assembler.add(record)
    assert_equal(whole, update(1))
    assert [assembler.add(record) for record in second][-1] is not None


def test_parts_beyond_number_are_refused_before_anything_is_held() -> None:
    (record,) = split(update(), 10_000)
    fields = msgspec.msgpack.decode(record)
    assembler = Assembler(["sam"])
    tracemalloc.start()
    try:
        for place, claimed in ((5, 10**9), (5, 2**64 - 1), (6, 2**62), (6, 2**64 - 1), (4, 10**9)):
            hostile = msgspec.msgpack.encode([*fields[:place], claimed, *fields[place + 1 :]])
            assert refusal(partial(assembler.add, hostile)) in ("malformed", "size")
        for lengths in (b"\xdd\xff\xff\xff\xff", b"\x99\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
            assert refusal(partial(assembler.add, lengths)) == "malformed"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert_equal(assembler.add(record), update())


def forge(record: bytes, **changes: object) -> bytes:
    part = msgspec.msgpack.decode(record, type=Part)
    return msgspec.msgpack.encode(msgspec.structs.replace(part, **changes))


@pytest.mark.parametrize(
    "changes", [{"part": 7}, {"data": b"x" * 10_000}, {"checksum": b""}, {"version": 9}, {"total": 1}]
)
def test_a_whole_that_is_not_what_its_part_promises_is_refused(changes: dict[str, object]) -> None:
    (record,) = split(update(), 10_000)
    assembler = Assembler(["sam"])
    assert refusal(lambda: assembler.add(forge(record, **changes))) == "malformed"
    assert_equal(assembler.add(record), update())
