"""A standby copy folds as the owner does, and never beyond what the owner has committed."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.partition import Partition
from stream.schema.formats import JsonOnly
from stream.schema.position import LogIdentity, decode_origin
from stream.task.paced_fold import PacedFold
from tests.stream.task.support import (
    LENGTH,
    PARTITIONS,
    SETTINGS,
    SLACK,
    STRANGER,
    T0,
    TOPICS,
    USER,
    USERS,
    Bench,
    Log,
    batches,
    behavior,
    keys,
    keys_in,
)

NOW = LogIdentity("cluster", TOPICS.behaviors, "id", PARTITIONS)


def copy_in(path: Path, begin: int = 0) -> PacedFold:
    partition = Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=20_000)
    return PacedFold(partition, TOPICS, SETTINGS, NOW, begin, partitions=PARTITIONS)


def items_in(path: Path, user: str) -> list[int]:
    partition = Partition.open(path, length=LENGTH, slack=SLACK)
    try:
        return keys_in(partition.sequences.read(user).tobytes())
    finally:
        partition.close()


Written = st.lists(st.tuples(st.sampled_from([*USERS, STRANGER]), st.integers(0, 9)), max_size=60)


@pytest.mark.long
@settings(max_examples=40)
@given(Written, st.lists(st.tuples(st.integers(1, 9), st.integers(0, 60), st.booleans()), max_size=30))
def test_a_copy_equals_the_owners_state_whatever_the_batches_commits_and_restarts(
    written: list[tuple[str, int]], turns: list[tuple[int, int, bool]]
) -> None:
    log = Log(*(behavior(f"i{item}", ts, user=user) for ts, (user, item) in enumerate(written)))
    log.put(TOPICS.behaviors, b"not JSON")
    with TemporaryDirectory() as directory:
        owner, standby = Path(directory) / "owner", Path(directory) / "standby"
        copy, limit = copy_in(standby), 0
        for size, more, restart in [*turns, (len(log.records), len(log.records) + 1, False)]:
            limit = min(len(log.records), limit + more)
            for batch in batches(log.records[copy.next : copy.next + size]):
                copy.add(batch)
            copy.fold(limit)
            assert copy.offset <= limit
            if restart:
                before = copy.offset
                copy.commit()
                copy.close()
                copy = copy_in(standby)
                assert copy.offset == copy.next == before
        for batch in batches(log.records[copy.next :]):
            copy.add(batch)
        copy.fold(len(log.records))
        copy.commit()
        assert (copy.offset, copy.waiting) == (len(log.records), 0)
        copy.close()
        bench = Bench(owner)
        bench.turn(*log.records)
        bench.task.commit()
        expected = {user: bench.items(user) for user in USERS}
        bench.close()
        assert {user: items_in(standby, user) for user in USERS} == expected
        assert items_in(standby, STRANGER) == []


def test_what_the_owner_has_not_committed_waits(tmp_path: Path) -> None:
    log = Log(*(behavior(f"i{number}", number) for number in range(5)))
    copy = copy_in(tmp_path / "copy")
    for batch in batches(log.records):
        copy.add(batch)
    copy.fold(3)
    copy.commit()
    assert (copy.offset, copy.next, copy.waiting) == (3, 5, 2)
    copy.close()
    assert items_in(tmp_path / "copy", USERS[0]) == keys("i0", "i1", "i2")


def test_what_is_old_is_folded_whatever_its_offset(tmp_path: Path) -> None:
    log = Log(*(behavior(f"i{number}", number) for number in range(5)))
    copy = copy_in(tmp_path / "copy")
    for batch in batches(log.records):
        copy.add(batch)
    copy.fold(1, before_ms=T0 + 3)
    assert (copy.offset, copy.waiting) == (3, 2)
    copy.close()


def test_a_copy_says_what_its_offset_is_an_offset_of(tmp_path: Path) -> None:
    log = Log(behavior("a", 7), behavior("b", 9))
    copy = copy_in(tmp_path / "copy")
    for batch in batches(log.records):
        copy.add(batch)
    copy.fold(2)
    copy.commit()
    copy.close()
    partition = Partition.open(tmp_path / "copy", length=LENGTH, slack=SLACK)
    origin = decode_origin(partition.origins[TOPICS.behaviors])
    assert partition.offsets == {TOPICS.behaviors: 2}
    partition.close()
    assert origin is not None
    assert (origin.log, origin.timestamp) == (NOW, T0 + 9)


def test_a_new_copy_begins_where_kafka_does(tmp_path: Path) -> None:
    copy = copy_in(tmp_path / "copy", begin=40)
    assert (copy.offset, copy.next) == (40, 40)
    copy.close()


class Schemas(JsonOnly):
    """Formats that are not ready for one value."""

    def __init__(self, unready: bytes | None) -> None:
        self.unready: bytes | None = unready

    def reads(self, _topic: str, /) -> bool:
        return True

    def ready(self, _topic: str, value: bytes | None, /) -> bool:
        return value != self.unready


def test_a_record_whose_schema_is_not_known_is_waited_for_with_all_behind_it(tmp_path: Path) -> None:
    log = Log(behavior("a", 0), behavior("b", 1), behavior("c", 2))
    formats = Schemas(log.records[1].value)
    partition = Partition.open(tmp_path / "copy", length=LENGTH, slack=SLACK)
    with closing(PacedFold(partition, TOPICS, SETTINGS, NOW, 0, partitions=PARTITIONS, formats=formats)) as copy:
        for batch in batches(log.records):
            copy.add(batch)
        copy.fold(3)
        copy.commit()
        assert (copy.offset, copy.waiting, copy.first_waiting) == (1, 2, 1)
        assert partition.offsets[TOPICS.behaviors] == 1
        formats.unready = None
        copy.fold(3)
        copy.commit()
        assert (copy.offset, copy.waiting, copy.first_waiting) == (3, 0, None)
        assert len(partition.sequences.read(USER)) == 3
