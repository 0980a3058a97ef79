"""Front ends of which each numbers its own users' requests from "1": each gets its answers, and all is learned."""

from pathlib import Path

from stream.client import Client
from stream.kafka.dead_letters import read_dead_letters
from stream.schema.events import Candidate, RequestKey
from stream.schema.topics import Topics
from tests.e2e.harness import ITEMS, Harness

USERS = [f"front-end-{number}" for number in range(40)]
CLICKING = USERS[:36]


def test_forty_users_with_a_request_number_one_each_are_answered_and_learned_from(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    harness = Harness(kafka, topics, topic_prefix, tmp_path, users=USERS)
    with harness, Client(kafka, topics) as other:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker")
        for number, user in enumerate(USERS):
            client = (harness.client, other)[number % 2]
            offered = [Candidate(item) for item in ITEMS[number % 20 : number % 20 + 3]]
            request = client.impression(user, offered, 3, request_id="1")
            assert request == RequestKey(user, "1")
            score = client.scores(request, timeout=30)
            assert (score.user, score.items) == (user, [candidate.item for candidate in offered])
            harness.asked.append(request)
            harness.answers[request] = score
        assert other.poll_scores() == harness.client.poll_scores() == []
        for user in CLICKING:
            score = harness.answers[RequestKey(user, "1")]
            item = score.items[score.order[0]]
            harness.client.click(score.request, item)
            harness.clicked.add((score.request, item))
        harness.settle()
        assert harness.trained() == 120
        assert list(read_dead_letters(kafka, topics)) == []
