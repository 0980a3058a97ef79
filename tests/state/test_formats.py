"""A state that an earlier version wrote is read, goes on, and is then refused by that version."""

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from state.behavior import BEHAVIOR
from state.layout import META_KEY
from state.partition import FORMAT, Meta, Partition
from state.records import NUMBERS, Record, fields_of, record_of
from tests.state.support import drawn, dump

LENGTH, SLACK, CHUNK = 150, 40, 64
FEATURED = record_of([("price", NUMBERS, 1)], of_behavior=True)


def write_as_before(path: Path, counts: dict[str, int], record: Record) -> None:
    """Write users with so many records as format 1 or 2 lies on disk: the head holds the whole open chunk."""
    chunks = -(-(LENGTH + SLACK) // CHUNK)
    meta = Meta(2 if record != BEHAVIOR else 1, LENGTH, SLACK, CHUNK, fields_of(record))
    db = Rdict(str(path), Options(raw_mode=True))
    db[META_KEY] = msgspec.json.encode(meta)
    for user, count in counts.items():
        done, every = count // CHUNK, drawn(record, 0, count)
        for chunk in range(max(0, done - chunks), done):
            key = b"s" + user.encode() + (1 + chunk % chunks).to_bytes(2, "big")
            db[key] = every[chunk * CHUNK : (chunk + 1) * CHUNK].tobytes()
        db[b"s" + user.encode() + bytes(2)] = count.to_bytes(8, "little") + every[done * CHUNK :].tobytes()
    db.close()


@pytest.mark.long
@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 400), min_size=1, max_size=3),
    more=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    read=st.booleans(),
    record=st.sampled_from([BEHAVIOR, FEATURED]),
)
def test_it_is_read_and_goes_on_to_the_same_bytes(
    counts: list[int], more: list[int], read: bool, record: Record
) -> None:
    users = {f"user-{place}": count for place, count in enumerate(counts)}
    with TemporaryDirectory() as directory:
        old, fresh = Path(directory) / "old", Path(directory) / "fresh"
        write_as_before(old, users, record)
        for path, start in ((old, users), (fresh, dict.fromkeys(users, 0))):
            now = dict(start)
            for number, size in enumerate(more):
                partition = Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=0, record=record)
                for user in users:
                    if read and path == old:
                        expected = drawn(record, max(0, now[user] - LENGTH), now[user])
                        assert partition.sequences.read(user).tobytes() == expected.tobytes()
                    stop = now[user] + size + (users[user] if not number and path == fresh else 0)
                    assert partition.sequences.append(user, drawn(record, now[user], stop)) == stop
                    now[user] = stop
                partition.commit({"behaviors": number})
                partition.close()
        assert dump(old) == dump(fresh)


@pytest.mark.parametrize("record", [BEHAVIOR, FEATURED], ids=["format 1", "format 2"])
def test_the_version_that_wrote_it_cannot_mistake_what_it_has_become(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "partition"
    write_as_before(path, {"user": 100}, record)
    partition = Partition.open(path, length=LENGTH, slack=SLACK)
    assert partition.sequences.read("user").tobytes() == drawn(record, 0, 100).tobytes()
    partition.close()
    meta = msgspec.json.decode(dump(path)[META_KEY], type=Meta)
    assert (meta.format, meta.features) == (FORMAT, fields_of(record))
    assert meta.format not in (1, 2)
