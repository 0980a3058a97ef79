"""A state whose features change: opened with another layout it is converted, also after a crash on the way."""

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state import conversion
from state.behavior import BEHAVIOR
from state.errors import FormatError
from state.layout import CONVERSION_KEY, META_KEY
from state.partition import Partition
from state.records import KEYS, NUMBERS, Fields, Record, Records, converted, fields_of, record_of
from tests.state.support import drawn, dump, records

LENGTH, SLACK = 100, 28
USERS = ("u", "u\0", "user", "u\0\1")
A = record_of([("price", NUMBERS, 1), ("brand", KEYS, 1)], of_behavior=True)
B = record_of([("brand", KEYS, 1), ("tags", KEYS, 3)], of_behavior=True)


def opened(path: Path, record: Record | None = None) -> Partition:
    return Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=20_000, record=record)


class Interrupted(BaseException):
    """The process died here."""


def interrupted(path: Path, record: Record | None, after: int) -> bool:
    """Open a state with a layout and die after so many values, each written by itself; returns whether it did."""
    left = [after]

    def dying(values: Records, to: Record) -> Records:
        if not left[0]:
            raise Interrupted
        left[0] -= 1
        return converted(values, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "_BATCH_BYTES", 1)
        patch.setattr(conversion, "converted", dying)
        try:
            opened(path, record).close()
        except Interrupted:
            return True
    return False


class Oracle:
    """What a state holds, kept in plain Python: of each user the numbers of records, and the fields that each has."""

    def __init__(self) -> None:
        self.record: Record = BEHAVIOR
        self.rows: dict[str, list[tuple[int, Fields]]] = {user: [] for user in USERS}

    def change(self, record: Record) -> None:
        kept = fields_of(record)
        self.record = record
        for user, rows in self.rows.items():
            self.rows[user] = [(number, [field for field in fields if field in kept]) for number, fields in rows]

    def append(self, user: str, count: int) -> Records:
        start = len(self.rows[user])
        self.rows[user] += [(number, fields_of(self.record)) for number in range(start, start + count)]
        return drawn(self.record, start, start + count)

    def read(self, user: str) -> bytes:
        return b"".join(
            converted(drawn(record_of(fields, of_behavior=True), number, number + 1), self.record).tobytes()
            for number, fields in self.rows[user][-LENGTH:]
        )


Layouts = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([NUMBERS, KEYS]), st.integers(1, 2)),
    unique_by=lambda field: field[0],
    max_size=3,
).map(lambda fields: record_of(fields, of_behavior=True))
Steps = st.lists(
    st.tuples(
        Layouts,
        st.none() | st.integers(0, 12),
        st.lists(st.tuples(st.sampled_from(USERS), st.integers(1, 150)), max_size=4),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.long
@settings(max_examples=60)
@given(Steps)
def test_any_sequence_of_layouts_equals_folding_in_the_new_one_wherever_features_stand_in_both(
    steps: list[tuple[Record, int | None, list[tuple[str, int]]]],
) -> None:
    oracle, offset = Oracle(), 0
    with TemporaryDirectory() as directory:
        path = Path(directory) / "partition"
        opened(path, BEHAVIOR).close()
        for record, dies_after, written in steps:
            if dies_after is not None:
                died = interrupted(path, record, dies_after)
                if not died or dies_after:  # else nothing was changed, and nothing is known of it
                    oracle.change(record)
                partition = opened(path)
                assert partition.meta.features == fields_of(oracle.record), "one that was begun goes on first"
            else:
                partition = opened(path, record)
                oracle.change(record)
            assert dict(partition.offsets) == ({"behaviors": offset} if offset else {})
            for user, count in written:
                offset += count
                partition.sequences.append(user, oracle.append(user, count))
            if written:
                partition.pending.put("r", str(offset).encode())
                partition.commit({"behaviors": offset})
            assert {user: partition.sequences.read(user).tobytes() for user in USERS} == {
                user: oracle.read(user) for user in USERS
            }
            assert {user: partition.sequences.count(user) for user in USERS} == {
                user: len(oracle.rows[user]) for user in USERS
            }
            assert partition.pending.get("r") == (str(offset).encode() if offset else None)
            partition.close()
        assert CONVERSION_KEY not in dump(path)


def filled(path: Path, record: Record = A) -> None:
    partition = opened(path, record)
    for user in USERS:
        partition.sequences.append(user, drawn(record, 0, 200))
    partition.commit({"behaviors": 800})
    partition.close()


@pytest.mark.long
@pytest.mark.parametrize("after", range(14))
@pytest.mark.parametrize("then", [None, A, B, BEHAVIOR], ids=["no layout", "the first", "the same", "none at all"])
def test_interrupted_anywhere_it_goes_on_with_any_layout(tmp_path: Path, after: int, then: Record | None) -> None:
    path = tmp_path / "partition"
    filled(path)
    done = not interrupted(path, B, after)
    assert done == (after >= 12), "two whole chunks and an open one of each user"
    begun = A if not after else B
    expected = converted(converted(drawn(A, 100, 200), begun), begun if then is None else then)
    partition = opened(path, then)
    assert partition.sequences.record == expected.dtype
    assert {user: partition.sequences.read(user).tobytes() for user in USERS} == dict.fromkeys(
        USERS, expected.tobytes()
    )
    assert dict(partition.offsets) == {"behaviors": 800}
    partition.close()
    again = opened(path, then)
    assert again.converted == 0
    again.close()


def test_opened_with_the_same_layout_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "partition"
    filled(path)
    before = dump(path)
    for record in (A, None):
        partition = opened(path, record)
        assert partition.converted == 0
        assert partition.meta.features == fields_of(A)
        assert partition.sequences.read("user").tobytes() == drawn(A, 100, 200).tobytes()
        partition.close()
    assert dump(path) == before


def test_how_many_values_were_converted_is_told(tmp_path: Path) -> None:
    path = tmp_path / "partition"
    filled(path)
    partition = opened(path, B)
    assert partition.converted == 3 * len(USERS)
    partition.close()


def test_a_state_of_a_version_without_features_opens_as_before_and_takes_features(tmp_path: Path) -> None:
    path = tmp_path / "partition"
    partition = Partition.open(path, length=LENGTH, slack=SLACK)
    partition.sequences.append("user", records(0, 200))
    partition.commit({"behaviors": 200})
    partition._db.put(META_KEY, msgspec.json.encode({"format": 1, "length": LENGTH, "slack": SLACK, "chunk": 64}))
    partition.close()
    for record in (None, BEHAVIOR):
        partition = opened(path, record)
        assert partition.sequences.read("user").tobytes() == records(100, 200).tobytes()
        assert partition.converted == 0
        partition.close()
    partition = opened(path, A)
    assert partition.sequences.read("user").tobytes() == converted(records(100, 200), A).tobytes()
    partition.close()


def test_features_in_the_format_without_them_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "partition"
    filled(path)
    partition = opened(path)
    partition._db.put(META_KEY, msgspec.json.encode(msgspec.structs.replace(partition.meta, format=1)))
    partition.close()
    with pytest.raises(FormatError, match="format 1"):
        opened(path, A)


def test_records_of_another_layout_are_not_appended(tmp_path: Path) -> None:
    partition = opened(tmp_path / "partition", A)
    with pytest.raises(ValueError, match="give a 1-d array of BEHAVIOR and the features"):
        partition.sequences.append("user", drawn(B, 0, 1))
    assert partition.sequences.count("user") == 0
    partition.close()
