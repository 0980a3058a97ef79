"""States of a machine that nobody has open: users who were erased go from them as well."""

import time
from contextlib import closing
from pathlib import Path

from state.behavior import behaviors
from state.partition import Partition
from stream.schema.erasures import Erased, Erasures, Void
from stream.schema.topics import Topics
from stream.settings import StateSettings
from stream.worker.purging import Purger
from tests.state.support import holds
from tests.stream.task.support import NUMBER, USER, Bench, Log, behavior

TOPICS = Topics()
GONE = "gone-4711"


def written(path: Path, *, read: int) -> None:
    with closing(Partition.open(path, length=1000, slack=256)) as partition:
        for user in (GONE, "other"):
            partition.sequences.append(user, behaviors([(1, 1, 1, 1)]))
        partition.commit({TOPICS.behaviors: read})


def test_users_go_from_states_and_copies_that_are_not_used_and_not_from_those_that_are_open(tmp_path: Path) -> None:
    settings = StateSettings(directory=str(tmp_path))
    unused, copy, newer, in_use = settings.path(0), settings.standby_path(1), settings.path(2), settings.path(3)
    for path in (unused, copy, in_use):
        written(path, read=5)
    written(newer, read=9)  # its user has begun anew already
    erasures = Erasures()
    purger = Purger(settings, TOPICS, erasures)
    for number in range(4):
        erasures.of(number).add(Erased(GONE, Void(5, 0), 0, offset=number))
    with closing(Partition.open(in_use, length=1000, slack=256)):
        deadline = time.monotonic() + 30
        while holds(unused, GONE.encode()) or holds(copy, GONE.encode()):
            purger.consider({}, time.monotonic())
            assert time.monotonic() < deadline
        purger.close()
    assert holds(unused, b"other")
    assert holds(newer, GONE.encode())
    assert holds(in_use, GONE.encode())
    with closing(Partition.open(copy, length=1000, slack=256)) as partition:
        assert partition.offsets == {TOPICS.behaviors: 5, TOPICS.erasures: 2}
        assert not partition.unpurged


def test_a_partition_that_always_has_something_to_commit_is_purged(tmp_path: Path) -> None:
    log, erasures = Log(behavior("a", 0)), Erasures()
    bench = Bench(tmp_path / "state", erasures=erasures.of(NUMBER))
    bench.turn(*log.records)
    bench.task.commit()
    before = len(log.records)
    erasures.of(NUMBER).add(log.erase())
    bench.turn(*log.records[before:], wall=1)
    bench.task.commit()
    assert holds(tmp_path / "state", USER.encode())
    purger = Purger(StateSettings(directory=str(tmp_path)), TOPICS, erasures)
    deadline = time.monotonic() + 30
    while bench.partition.unpurged:
        bench.turn(log.write(behavior("b", len(log.records))), wall=len(log.records))
        assert bench.task.changed
        purger.consider({NUMBER: bench.task}, time.monotonic())
        assert time.monotonic() < deadline
    purger.close()
    bench.close()
    assert not holds(tmp_path / "state", USER.encode())
