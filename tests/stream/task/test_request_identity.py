"""Front ends of which each numbers its own requests: users meet nowhere, from the impression to the learned item."""

from contextlib import closing
from pathlib import Path

import pytest

from state.behavior import behaviors
from state.partition import Partition
from stream.schema.dedup import RecentIds
from stream.schema.partitioner import partition_of
from stream.trainer.examples import unpack_sample
from tests.stream.task.support import (
    LATER,
    LENGTH,
    NUMBER,
    PARTITIONS,
    SLACK,
    Bench,
    Log,
    behavior,
    click,
    impression,
)

PEOPLE = [user for user in map("front-end-{}".format, range(400)) if partition_of(user.encode(), PARTITIONS) == NUMBER]
PEOPLE = PEOPLE[:40]
EACH = {user: [0.0, 0.0, 1.0] for user in PEOPLE}
"""What is to be learned of each: three items, one of them clicked."""


def asked_and_clicked(*, clicks_first: bool) -> Log:
    """Forty users with a request "1" of three items, of which each clicks one."""
    asked = [impression("1", number, user=user, size=3, slots=3) for number, user in enumerate(PEOPLE)]
    clicked = [click(f"c{number % 3}", 100 + number, "1", user=user) for number, user in enumerate(PEOPLE)]
    return Log(*clicked, *asked) if clicks_first else Log(*asked, *clicked)


def learned(bench: Bench) -> dict[str, list[float]]:
    """User → labels that a trainer would learn, each (request, item) once."""
    seen, found = RecentIds(window=10_000), dict[str, list[float]]()
    for sample in bench.samples:
        example = unpack_sample(sample, behaviors([]), seen)
        if example is not None and (labels := example.features.labels) is not None:
            found.setdefault(sample.user, []).extend(labels.tolist())
    return {user: sorted(labels) for user, labels in found.items()}


@pytest.mark.parametrize("clicks_first", [False, True])
def test_all_that_forty_users_were_shown_is_learned_though_all_requests_are_number_one(
    bench: Bench, clicks_first: bool
) -> None:
    log = asked_and_clicked(clicks_first=clicks_first)
    for record in log.records:
        bench.turn(record)
    bench.turn(log.write(behavior("x", 200 + LATER)))
    assert not bench.refused
    assert learned(bench) == EACH
    assert bench.task.counts["duplicate_impressions"] == 0
    assert {score.user for score in bench.scores.values()} == set(PEOPLE)


def test_they_do_so_across_a_crash_before_and_after_the_commit(path: Path) -> None:
    log = asked_and_clicked(clicks_first=False)
    samples = []
    with closing(Bench(path)) as bench:
        for record in log.records[:60]:
            bench.turn(record)
        bench.task.commit()
        samples += bench.samples
        bench.turn(*log.records[60:70])
    with closing(Bench(path)) as bench:
        bench.turn(*log.records[60:], log.write(behavior("x", 200 + LATER)))
        bench.samples = samples + bench.samples
        assert not bench.refused
        assert learned(bench) == EACH


def test_a_state_of_an_earlier_version_closes_its_windows_and_its_clicks_find_their_impressions(path: Path) -> None:
    log = Log(impression("1", user=PEOPLE[0]), click("c0", 5, "2", user=PEOPLE[1]))
    with closing(Bench(path)) as bench:
        bench.turn(*log.records)
        bench.task.commit()
    with closing(Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=0)) as partition:
        table = partition.pending
        for key, value in list(table.items()):
            if key[0] in "ic":  # by the request id alone
                table.delete(key)
                table.put(f"{key[0]}{key[-1]}", value)
        partition.commit({})
    with closing(Bench(path)) as bench:
        assert bench.task.open_requests == 1
        bench.turn(log.write(impression("1", 10, user=PEOPLE[1])), log.write(impression("2", 20, user=PEOPLE[1])))
        bench.turn(log.write(click("c0", 30, "1", user=PEOPLE[0])), log.write(behavior("x", 20 + LATER)))
        assert not bench.refused
        positives = {(sample.user, sample.request_id) for sample in bench.samples if 1 in sample.labels}
        assert positives == {(PEOPLE[0], "1"), (PEOPLE[1], "2")}
        bench.task.commit()
    with closing(Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=0)) as partition:
        assert {key for key, _ in partition.pending.items()} == {"t"}


def test_an_impression_with_other_candidates_under_the_id_of_an_open_one_is_answered_and_counted(bench: Bench) -> None:
    bench.turn(*Log(impression("1", size=3), impression("1", 5, size=4)).records)
    assert bench.task.counts["impressions"] == 2
    assert (bench.task.counts["conflicting_impressions"], bench.task.counts["duplicate_impressions"]) == (1, 0)
