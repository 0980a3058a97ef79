"""The table of pending values against a dict."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import Options, Rdict, WriteBatch

from state.partition import Partition
from state.table import Table
from tests.state.support import dump, records

_keys = st.sampled_from(["", "a", "b", "ü", "ab"])
_steps = st.lists(
    st.tuples(st.just("put"), _keys, st.binary(max_size=4))
    | st.tuples(st.sampled_from(["delete", "commit", "reopen"]), _keys, st.just(b"")),
    max_size=30,
)


@pytest.mark.long
@settings(max_examples=20)
@given(steps=_steps)
def test_it_is_a_dict_that_goes_back_to_its_last_commit(
    steps: list[tuple[str, str, bytes]], tmp_path_factory: object
) -> None:
    path = tmp_path_factory.mktemp("table") / "state"  # type: ignore[attr-defined]
    partition = Partition.open(path)
    now: dict[str, bytes] = {}
    committed: dict[str, bytes] = {}
    for step, key, value in steps:
        if step == "put":
            partition.pending.put(key, value)
            now[key] = value
        elif step == "delete":
            partition.pending.delete(key)
            now.pop(key, None)
        elif step == "commit":
            partition.commit({})
            committed = dict(now)
        else:
            partition.close()
            partition = Partition.open(path)
            now = dict(committed)
        assert dict(partition.pending.items()) == now
        assert len(partition.pending) == len(now)
        assert partition.pending.get(key) == now.get(key)
    partition.close()


def test_a_value_that_came_and_went_costs_no_write(tmp_path: Path) -> None:
    db = Rdict(str(tmp_path / "db"), Options(raw_mode=True))
    table = Table(db, prefix=b"t")
    table.put("a", b"1")
    table.put("b", b"2")
    table.delete("a")
    table.delete("never")
    batch = WriteBatch(raw_mode=True)
    table.write_into(batch)
    assert len(batch) == 1
    db.write(batch)
    table.delete("b")
    table.put("b", b"3")
    table.delete("b")
    batch = WriteBatch(raw_mode=True)
    table.write_into(batch)
    assert len(batch) == 1
    db.write(batch)
    assert db.get(b"tb") is None
    again = WriteBatch(raw_mode=True)
    table.write_into(again)
    assert len(again) == 0
    db.close()


def test_it_may_change_while_it_is_iterated(tmp_path: Path) -> None:
    partition = Partition.open(tmp_path / "state")
    for number in range(5):
        partition.pending.put(str(number), b"")
    for key, _ in partition.pending.items():
        partition.pending.delete(key)
    assert len(partition.pending) == 0
    partition.close()


def test_it_and_the_sequences_do_not_meet_on_disk(tmp_path: Path) -> None:
    partition = Partition.open(tmp_path / "state")
    for key in ("s", "su\x00\x00", "o", "m", "u\x00\x00"):
        partition.pending.put(key, key.encode())
    partition.sequences.append("u", records(0, 100))
    partition.commit({"behaviors": 100})
    partition.close()
    partition = Partition.open(tmp_path / "state")
    assert len(partition.pending) == 5
    assert partition.sequences.count("u") == 100
    assert dict(partition.offsets) == {"behaviors": 100}
    partition.close()
    # Of the sequence: its head, a chunk and two parts; then the format and the offsets.
    assert len(dump(tmp_path / "state")) == 5 + 4 + 2
