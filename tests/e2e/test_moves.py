"""State that is moved, lost or of another place: taken up where that can be right, refused clearly where not."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from state.partition import Partition
from stream.schema.events import RequestKey, decode_score
from stream.schema.topics import Topics
from tests.e2e.harness import LENGTH, Harness, wait_for

LATE_CLICKS = 5


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path)


def in_directory(harness: Harness, name: str) -> list[str]:
    return ["--set", f"state.directory={harness.directory / name}"]


def click_late(harness: Harness, requests: list[RequestKey]) -> None:
    """Let users click what was shown to them before: the windows must be found open by whoever has them now."""
    clicked = 0
    for request in requests:
        score = harness.answers[request]
        for index in score.order[: score.slots]:
            if clicked < LATE_CLICKS and (request, score.items[index]) not in harness.clicked:
                harness.client.click(request, score.items[index])
                harness.clicked.add((request, score.items[index]))
                clicked += 1
    assert clicked == LATE_CLICKS


def answers_of(harness: Harness) -> Counter[RequestKey]:
    """Return how often each request was answered."""
    return Counter(decode_score(value).request for value in harness.read(harness.topics.scores))


def test_a_directory_that_was_away_is_taken_up_again_and_nothing_is_lost_or_learned_otherwise(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("a", *in_directory(harness, "a"), instance="one")
        harness.wander(500)
        harness.traffic(25)
        first = list(harness.asked)
        for _ in range(10):
            harness.ask()
            harness.wander(3)
        harness.end("a")

        harness.start_worker("b", *in_directory(harness, "b"), instance="one")
        harness.await_answers()
        click_late(harness, first)
        harness.wander(100)
        harness.traffic(25)
        second = harness.asked[len(first) :]
        for _ in range(10):
            harness.ask()
            harness.wander(3)
        harness.replace_worker("b", "a-again", *in_directory(harness, "a"))
        harness.await_answers()
        click_late(harness, first)
        click_late(harness, second)
        harness.traffic(25)
        harness.settle("a")
        again = [request for request, count in answers_of(harness).items() if count > 1]
        assert not set(again) & set(first), "what was committed before the move was answered again"


def test_lost_state_is_rebuilt_without_answering_again_and_open_windows_still_close(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker-1")
        harness.wander(1500)
        harness.traffic(30)
        before = list(harness.asked)
        harness.end("worker-1")
        shutil.rmtree(harness.directory / "state")

        harness.wander(200)
        harness.start_worker("worker-2")
        click_late(harness, before)
        harness.traffic(30)
        harness.settle()
        assert answers_of(harness) == dict.fromkeys(harness.asked, 1)


@pytest.mark.parametrize(
    ("names", "reached", "told"),
    [("other", 0, ("of other topics", "state.directory")), ("these", 1_000_000, ("1000000", "recreated", "Move"))],
    ids=["of other topics", "ahead of Kafka"],
)
def test_a_directory_that_cannot_be_right_ends_the_worker_with_what_to_do(
    harness: Harness, topics: Topics, names: str, reached: int, told: tuple[str, ...]
) -> None:
    kept = Topics("other-") if names == "other" else topics
    offsets = {kept.behaviors: reached, kept.impressions: 0, kept.clicks: 0, kept.scores: 0}
    (harness.directory / "wrong").mkdir()
    for number in range(4):
        partition = Partition.open(harness.directory / "wrong" / f"partition-{number:05d}", length=LENGTH, slack=64)
        partition.commit(offsets)
        partition.close()
    quick = ("--set", "worker.model_wait_s=0")
    with harness:
        harness.processes.start("wrong", "worker", *in_directory(harness, "wrong"), *quick)
        last = harness.last_words("wrong")
        assert last.startswith("samstream worker: "), last
        assert not [word for word in told if word not in last], last
        # Nothing stands in the way of one whose directory is right: no locks, no member of the group.
        harness.start_worker("right", *in_directory(harness, "right"), *quick)
        harness.traffic(3)


def await_start(harness: Harness, name: str) -> None:
    log = harness.processes.log(name)
    wait_for(lambda: " started " in log.read_text(), f"{name} to start", processes=harness.processes)


def test_a_worker_that_is_asked_to_end_while_it_joins_its_group_ends(harness: Harness) -> None:
    """An assignment that is on its way when the consumer is closed must not be waited for by what it waits for."""
    with harness:
        for life in range(4):
            name = f"joining-{life}"
            harness.processes.start(
                name, "worker", "--set", "worker.model_wait_s=0", "--set", "kafka.group.instance.id=one"
            )
            await_start(harness, name)
            harness.end(name)
        harness.start_worker("worker", "--set", "worker.model_wait_s=0", instance="one")
        harness.traffic(3)
