"""Users who are erased: what is void goes wherever it lies, later ones begin anew, and nobody else is touched."""

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.layout import user_prefix
from state.partition import Partition
from stream.schema.erasures import Erased, ErasureLog, Void
from stream.schema.position import LogIdentity
from stream.schema.record import Record
from stream.task.paced_fold import PacedFold
from tests.state.support import dump, holds, wait_until_gone
from tests.stream.task.support import (
    LATER,
    LENGTH,
    PARTITIONS,
    SETTINGS,
    SLACK,
    TOPICS,
    USERS,
    Bench,
    Log,
    batches,
    beginning,
    behavior,
    click,
    impression,
    keys,
    unread,
)

NOW = LogIdentity("cluster", TOPICS.behaviors, "id", PARTITIONS)
ERASED, OTHER = USERS[0], USERS[1]
_Turns = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 2), st.sampled_from(["go on", "commit", "crash", "purge"])),
    max_size=12,
)
_Events = st.lists(st.tuples(st.sampled_from(["behavior"] * 6 + ["erase"]), st.integers(0, 3)), max_size=100)


def known(*erased: Erased) -> ErasureLog:
    log = ErasureLog()
    for each in erased:
        log.add(each)
    return log


def written(events: list[tuple[str, int]]) -> tuple[Log, list[Erased], dict[str, list[int]]]:
    """Return the log, what is heard of its erasures, and user → items since the user's last erasure."""
    log, heard = Log(), list[Erased]()
    items: dict[str, list[str]] = {user: [] for user in USERS}
    for number, (kind, who) in enumerate(events):
        # The last user is never erased.
        if kind == "erase" and USERS[who] != USERS[-1]:
            heard.append(log.erase(USERS[who]))
            items[USERS[who]] = []
        else:
            log.write(behavior(f"i{number}", number, user=USERS[who]))
            items[USERS[who]].append(f"i{number}")
    return log, heard, {user: keys(*found) for user, found in items.items()}


@pytest.mark.long
@settings(max_examples=60)
@given(_Events, _Turns)
def test_folding_begins_users_anew_whatever_the_batches_the_crashes_and_whenever_it_is_heard(
    events: list[tuple[str, int]], turns: list[tuple[int, int, str]]
) -> None:
    log, heard, expected = written(events)
    plain = Log(*(behavior(f"i{n}", n, user=USERS[who]) for n, (kind, who) in enumerate(events) if who == 3))
    with tempfile.TemporaryDirectory() as home:
        path, untouched = Path(home) / "state", Path(home) / "untouched"
        erasures = ErasureLog()
        bench = Bench(path, erasures=erasures)
        place = told = 0
        for size, more, then in [*turns, (len(log.records), len(heard), "commit"), (0, 0, "purge")]:
            # An erasure is written after its marker, and heard at any time after that, before or after the marker is.
            for each in heard[told : told + more]:
                erasures.add(each)
            told = min(told + more, len(heard))
            bench.turn(*unread(bench, log.records[place : place + size]))
            place = min(place + size, len(log.records))
            if then == "commit":
                bench.task.commit()
            elif then == "purge":
                bench.partition.purge()
            elif then == "crash":
                bench.close()
                bench = Bench(path, erasures=erasures)
                bench.turn(*unread(bench, log.records[:place]))
        for user, items in expected.items():
            assert bench.items(user) == items[-LENGTH:]
            assert bench.partition.sequences.count(user) == len(items)
        bench.close()
        with closing(Bench(untouched)) as other:
            other.turn(*plain.records)
            other.task.commit()
        of_last = user_prefix(USERS[-1])
        found, wanted = ({k: v for k, v in dump(where).items() if k.startswith(of_last)} for where in (path, untouched))
        assert found == wanted


@pytest.mark.long
@settings(max_examples=40)
@given(_Events, _Turns)
def test_a_paced_fold_of_what_was_erased_equals_the_workers(
    events: list[tuple[str, int]], turns: list[tuple[int, int, str]]
) -> None:
    log, heard, expected = written(events)
    with tempfile.TemporaryDirectory() as home:
        path, erasures, told, limit = Path(home) / "copy", ErasureLog(), 0, 0

        def opened() -> PacedFold:
            partition = Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=20_000)
            return PacedFold(partition, TOPICS, SETTINGS, NOW, 0, partitions=PARTITIONS, erasures=erasures)

        copy = opened()
        for more, news, then in [*turns, (len(log.records), len(heard), "commit")]:
            for each in heard[told : told + news]:
                erasures.add(each)
            told, limit = min(told + news, len(heard)), min(limit + more, len(log.records))
            for batch in batches(log.records[copy.next : limit + 3]):
                copy.add(batch)
            copy.fold(limit)
            copy.take_erasures()
            if then in ("commit", "purge"):
                copy.commit()
            if then == "purge":
                copy.purge()
            elif then == "crash":
                copy.close()
                copy = opened()
        copy.commit()
        copy.purge()
        assert copy.erased_to == len(heard)
        copy.close()
        with closing(Bench(path)) as bench:
            for user, items in expected.items():
                assert bench.items(user) == items[-LENGTH:]
                assert bench.partition.sequences.count(user) == len(items)


def test_open_requests_waiting_clicks_and_labels_go_and_later_ones_count(tmp_path: Path) -> None:
    log, erasures = Log(), ErasureLog()
    with closing(Bench(tmp_path / "state", erasures=erasures)) as bench:
        before = [
            log.write(behavior("i1", 0, user=ERASED)),
            log.write(impression("r1", 1, user=ERASED)),
            log.write(impression("r1", 1, user=OTHER)),
            log.write(click("c0", 2, "unknown", user=ERASED)),
        ]
        bench.turn(*before)
        bench.task.commit()
        erasures.add(log.erase(ERASED))
        bench.turn(log.records[-1])
        bench.turn(
            log.write(behavior("i2", 3, user=ERASED)),
            log.write(impression("r2", 4, user=ERASED)),
            log.write(click("c3", 5, "r2", user=ERASED)),
            log.write(behavior("i3", 2 * LATER, user=OTHER)),
        )
        assert {(sample.user, sample.request_id) for sample in bench.samples} == {(OTHER, "r1"), (ERASED, "r2")}
        assert bench.named_items()[0] == keys("i2")
        assert not bench.refused
        assert bench.task.open_requests == 0
        bench.task.commit()


def test_what_is_answered_before_the_marker_is_folded_is_answered_and_not_learned(tmp_path: Path) -> None:
    log = Log(behavior("i1", 0, user=ERASED))
    heard = known(log.erase(ERASED))
    # Heard of before anything was read, as by a state that is rebuilt.
    with closing(Bench(tmp_path / "state", erasures=heard)) as bench:
        asked = bench.turn(log.records[0], log.write(impression("r1", 1, user=ERASED)))
        assert [len(request.example.sequence) for request in asked] == [0]
        bench.turn(log.records[1], log.write(behavior("i2", 2 * LATER, user=ERASED)))
        assert not bench.samples
        assert bench.items(ERASED) == keys("i2")
        assert bench.task.counts["impressions_of_erased_users"] == 1
        assert bench.task.counts["behaviors_of_erased_users"] == 1


def test_an_answer_from_before_that_is_recovered_opens_no_window(tmp_path: Path) -> None:
    log = Log(behavior("i1", 0, user=ERASED), impression("r1", 1, user=ERASED))
    with closing(Bench(tmp_path / "lost")) as bench:
        bench.turn(*log.records)
        given = bench.given
    heard = known(log.erase(ERASED))
    start = beginning(answers=given, impressions_end=1, behaviors_end=2)
    with closing(Bench(tmp_path / "state", start, erasures=heard)) as bench:
        bench.turn(*log.records, log.write(behavior("i2", 2 * LATER, user=OTHER)))
        assert not bench.samples
        assert not bench.task.open_requests


def test_clicks_from_before_neither_wait_nor_go_to_the_dead_letters(tmp_path: Path) -> None:
    log = Log(click("c0", 1, "r1", user=ERASED))
    heard = known(log.erase(ERASED))
    with closing(Bench(tmp_path / "state", erasures=heard)) as bench:
        bench.turn(*log.records, log.write(behavior("i2", 2 * LATER, user=OTHER)))
        assert not bench.refused
        assert bench.task.counts["clicks_of_erased_users"] == 1


@pytest.mark.long
def test_no_file_holds_the_user_or_the_sequence_after_a_purge_nor_does_a_copy(tmp_path: Path) -> None:
    log, erasures = Log(), ErasureLog()
    path, copy = tmp_path / "state", tmp_path / "copy"
    bench = Bench(path, erasures=erasures)
    with closing(bench):
        for number in range(200):
            bench.turn(
                log.write(behavior(f"i{number}", number, user=ERASED)),
                log.write(behavior(f"other{number}", number, user=OTHER)),
                log.write(impression(f"r{number}", number, user=ERASED)),
            )
            if number % 40 == 0:
                bench.task.commit()
        sequence = bench.task.sequence(ERASED).tobytes()
        bench.task.commit()
        needles = ERASED.encode(), sequence[-22:]
        assert holds(path, *needles)
        erasures.add(log.erase(ERASED))
        bench.turn()
        bench.task.commit()
        assert bench.task.erased_to == 0
        bench.partition.copy(copy)
        assert bench.task.erased_to == 1
        assert not holds(copy, *needles)
        wait_until_gone(path, *needles)
        assert holds(path, OTHER.encode())


def test_a_process_that_dies_before_the_purge_is_followed_by_one_that_does_it(tmp_path: Path) -> None:
    log, path = Log(behavior("i1", 0, user=ERASED)), tmp_path / "state"
    erasures = ErasureLog()
    with closing(Bench(path, erasures=erasures)) as bench:
        bench.turn(*log.records)
        bench.task.commit()
        erasures.add(log.erase(ERASED))
        bench.turn()
        bench.task.commit()
    assert holds(path, ERASED.encode())
    with closing(Bench(path, erasures=erasures)) as bench:
        assert bench.partition.unpurged
        bench.partition.purge()
        assert bench.task.erased_to == 1
        wait_until_gone(path, ERASED.encode())


@pytest.mark.parametrize(
    "value", [b'{"user":"%s"}', b'{"user":"%s","event":"view"}', b'{"user":"%s","event":"erase","ts":1}']
)
def test_what_is_no_marker_erases_nobody(tmp_path: Path, value: bytes) -> None:
    log = Log(behavior("i1", 0, user=ERASED))
    log.put(TOPICS.behaviors, value % ERASED.encode(), key=ERASED.encode())
    with closing(Bench(tmp_path / "state")) as bench:
        bench.turn(*log.records)
        assert len(bench.refused) == 1
        assert bench.items(ERASED) == keys("i1")


def test_a_marker_of_another_key_or_partition_is_refused(tmp_path: Path) -> None:
    log = Log(behavior("i1", 0, user=ERASED))
    marker = b'{"user":"%s","event":"erase"}' % ERASED.encode()
    wrong: list[Record] = [log.put(TOPICS.behaviors, marker, key=OTHER.encode())]
    with closing(Bench(tmp_path / "state")) as bench:
        bench.turn(*log.records)
        assert [each.record for each in bench.refused] == wrong
        assert bench.items(ERASED) == keys("i1")


def test_erasing_again_begins_the_user_anew_again(tmp_path: Path) -> None:
    log, erasures = Log(behavior("i1", 0, user=ERASED)), ErasureLog()
    log.erase(ERASED)  # and the command was killed before it wrote to `erasures`
    log.write(behavior("i2", 1, user=ERASED))
    erasures.add(log.erase(ERASED))
    log.write(behavior("i3", 2, user=ERASED))
    with closing(Bench(tmp_path / "state", erasures=erasures)) as bench:
        bench.turn(*log.records)
        assert bench.items(ERASED) == keys("i3")


def test_an_erasure_of_a_topic_that_was_recreated_voids_nothing_in_the_new_one(tmp_path: Path) -> None:
    log = Log(impression("r1", 0, user=ERASED), behavior("i1", 1, user=ERASED))
    heard = known(Erased(ERASED, Void(), 0, offset=0))
    with closing(Bench(tmp_path / "state", erasures=heard)) as bench:
        bench.turn(*log.records, log.write(behavior("i2", 2 * LATER, user=OTHER)))
        assert {sample.request_id for sample in bench.samples} == {"r1"}
        assert bench.items(ERASED) == keys("i1")
