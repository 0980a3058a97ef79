"""A front end's view: what it writes reaches Kafka as readers expect it, and answers find their request."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import Message, Producer

from stream.client import Client
from stream.errors import EventError, KafkaClientError, NoAnswerError
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.local.broker import Broker
from stream.schema.events import (
    Behavior,
    Candidate,
    Click,
    Impression,
    RequestKey,
    Score,
    Spent,
    Withdrawal,
    decode_behavior,
    decode_click,
    decode_impression,
    decode_request,
    encode_json,
)
from stream.schema.topics import Topics

NOW = 1_700_000_000.5
CANDIDATES = [Candidate("tea", "drinks"), Candidate("bread")]


@pytest.fixture
def client(kafka: dict[str, str], topics: Topics) -> Iterator[Client]:
    with Client(kafka, topics, clock=lambda: NOW) as client:
        yield client


def _read(kafka: dict[str, str], topic: str) -> list[Message]:
    """Return what a topic holds now."""
    tail = TopicReader(kafka, [topic], from_beginning=True)
    deadline = time.monotonic() + 20
    messages: list[Message] = []
    while not tail.at_end():
        assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
        messages += tail.read(0.1)
    tail.close()
    return messages


def _value(message: Message) -> bytes:
    value = message.value()
    assert isinstance(value, bytes)
    return value


def _score(request_id: str, user: str = "ann") -> Score:
    return Score(
        request_id=request_id,
        user=user,
        ts=1,
        arm="sam",
        epoch=1,
        version=2,
        items=["tea", "bread"],
        probabilities=[0.25, 0.5],
        order=[1, 0],
        slots=2,
        seen=3,
        spent_ms=Spent(wait=0.5, state=0.25, score=1.0),
    )


@pytest.fixture
def answer(kafka: dict[str, str], topics: Topics) -> "Answer":
    return Answer(kafka, topics)


class Answer:
    """Writes answers as a worker does."""

    def __init__(self, kafka: dict[str, str], topics: Topics) -> None:
        self._producer = Producer({**kafka, "linger.ms": 0})
        self._topic = topics.scores

    def __call__(self, *requests: RequestKey) -> None:
        for user, request_id in requests:
            self.raw(encode_json(_score(request_id, user)))

    def raw(self, value: bytes | None) -> None:
        self._producer.produce(self._topic, value, b"ann")
        assert self._producer.flush(10) == 0


def test_events_reach_the_same_partition_of_their_topics(client: Client, kafka: dict[str, str], topics: Topics) -> None:
    users = [f"user-{number}" for number in range(20)]
    for user in users:
        client.behavior(user, "tea", category="drinks")
        request = client.impression(user, CANDIDATES, slots=1)
        client.click(request, "tea", category="drinks")
    client.flush()
    behaviors = _read(kafka, topics.behaviors)
    impressions = _read(kafka, topics.impressions)
    clicks = _read(kafka, topics.clicks)
    assert (len(behaviors), len(impressions), len(clicks)) == (40, 20, 20)
    where = {(message.key(), message.partition()) for message in [*behaviors, *impressions, *clicks]}
    assert {key for key, _ in where} == {user.encode() for user in users}
    assert len(where) == len(users), "a user lies in several partitions"
    assert len({partition for _, partition in where}) > 1


def test_a_click_is_a_label_and_a_behavior(client: Client, kafka: dict[str, str], topics: Topics) -> None:
    request = client.impression("ann", CANDIDATES, slots=2, ts=5)
    client.click(request, "tea", category="drinks", action="buy")
    client.flush()
    ts = 1_700_000_000_500
    (impression,) = _read(kafka, topics.impressions)
    assert decode_impression(_value(impression)) == Impression(request.request_id, "ann", 5, CANDIDATES, 2)
    (click,) = _read(kafka, topics.clicks)
    assert decode_click(_value(click)) == Click(request.request_id, "ann", "tea", ts)
    (behavior,) = _read(kafka, topics.behaviors)
    assert decode_behavior(_value(behavior)) == Behavior("ann", "tea", ts, "drinks", "buy")


def test_a_withdrawal_lies_behind_its_impression(client: Client, kafka: dict[str, str], topics: Topics) -> None:
    request = client.impression("ann", CANDIDATES)
    client.withdraw(request)
    client.flush()
    one, other = _read(kafka, topics.impressions)
    assert (one.key(), one.partition()) == (other.key(), other.partition())
    withdrawn = decode_request(_value(other))
    assert isinstance(withdrawn, Withdrawal)
    assert withdrawn.request == request
    with pytest.raises(EventError, match="ts"):
        client.withdraw(request, ts=-1)


def test_features_travel_as_json(client: Client, kafka: dict[str, str], topics: Topics) -> None:
    candidates = [Candidate.of("tea", "drinks", {"price": 2.5, "brand": "Œ"}), Candidate.of("bread")]
    assert candidates[1] == Candidate("bread")
    request = client.impression("ann", candidates, features={"hour": 7, "tier": None})
    client.behavior("ann", "tea", features={"price": 2.5, "tags": ["a", 1], "picture": (0.5, -1e15)})
    client.click(request, "tea", features={})
    client.flush()
    impression = json.loads(_value(_read(kafka, topics.impressions)[0]))
    assert impression["features"] == {"hour": 7, "tier": None}
    assert impression["candidates"] == [
        {"item": "tea", "category": "drinks", "features": {"price": 2.5, "brand": "Œ"}},
        {"item": "bread", "category": ""},
    ]
    behavior, click = (json.loads(_value(message)) for message in _read(kafka, topics.behaviors))
    assert behavior["features"] == {"price": 2.5, "tags": ["a", 1], "picture": [0.5, -1e15]}
    assert (click["action"], click["features"]) == ("click", {})


@pytest.mark.parametrize(
    "features",
    [
        {"price": float("nan")},
        {"price": float("inf")},
        {"price": object()},
        {"brand": "\ud800"},
        {"tags": {"a"}},
        {"text": "x" * 17_000},
        {("a", "b"): 1},
        [1, 2],
    ],
)
def test_features_that_json_cannot_say_are_refused_before_they_are_written(client: Client, features: Any) -> None:
    for write in (
        lambda: client.behavior("ann", "tea", features=features),
        lambda: client.impression("ann", CANDIDATES, features=features),
        lambda: client.click(RequestKey("ann", "1"), "tea", features=features),
        lambda: Candidate.of("tea", features=features),
    ):
        with pytest.raises(EventError, match="features: "):
            write()


def test_each_request_gets_its_answer(client: Client, answer: Answer) -> None:
    requests = [client.impression("ann", CANDIDATES) for _ in range(3)]
    assert len(set(requests)) == 3
    answer(*reversed(requests))
    for request in requests:
        assert client.scores(request, timeout=10) == _score(request.request_id)


def test_an_answer_that_comes_later_is_waited_for(client: Client, answer: Answer) -> None:
    request = client.impression("ann", CANDIDATES, request_id="mine")
    assert request == RequestKey("ann", "mine")
    late = threading.Timer(0.2, answer, [RequestKey("ann", "other"), request])
    late.start()
    assert client.scores(request, timeout=10).request_id == "mine"
    late.join()


def test_without_an_answer_it_says_what_to_look_at(client: Client, topics: Topics) -> None:
    request = client.impression("ann", CANDIDATES)
    with pytest.raises(NoAnswerError, match=r"samstream worker") as caught:
        client.scores(request, timeout=0.05)
    assert f"request '{request.request_id}' of user 'ann'" in str(caught.value)
    assert topics.dead_letters in str(caught.value)
    assert isinstance(caught.value, TimeoutError)


def _ask(client: Client, *request_ids: str, user: str = "ann") -> list[RequestKey]:
    return [client.impression(user, CANDIDATES, request_id=request_id) for request_id in request_ids]


def test_answers_before_its_time_are_not_read(client: Client, answer: Answer) -> None:
    answer(RequestKey("ann", "before"))
    _, after = _ask(client, "before", "after")
    answer(after)
    (arrival,) = client.poll_scores(timeout=10)
    assert arrival.score.request == after


def _drain(client: Client, count: int) -> list[str]:
    deadline = time.monotonic() + 20
    known: list[str] = []
    while len(known) < count:
        assert time.monotonic() < deadline, f"{len(known)} of {count} answers"
        known += [arrival.score.request_id for arrival in client.poll_scores(timeout=1)]
    return known


def test_polling_takes_each_answer_once(client: Client, answer: Answer) -> None:
    a, b, c = _ask(client, "a", "b", "c")
    assert client.poll_scores() == []
    answer(a, b)
    assert sorted(_drain(client, 2)) == ["a", "b"]
    answer(a, c)  # a worker repeats itself after a crash
    (arrival,) = client.poll_scores(timeout=10)
    assert (arrival.score.request, arrival.received) == (c, NOW)
    assert client.poll_scores() == []


def test_every_front_end_gets_the_answers_of_its_own_users_though_all_number_from_one(
    kafka: dict[str, str], topics: Topics, answer: Answer
) -> None:
    users = [f"user-{number}" for number in range(40)]
    with Client(kafka, topics) as one, Client(kafka, topics) as other:
        fronts = {user: (one, other)[number % 2] for number, user in enumerate(users)}
        requests = {user: _ask(front, "1", user=user)[0] for user, front in fronts.items()}
        answer(*reversed(requests.values()))
        for user, front in fronts.items():
            assert front.scores(requests[user], timeout=10) == _score("1", user)
        assert one.poll_scores() == other.poll_scores() == [], "answers to others are nobody's here"


def test_a_request_that_is_not_under_way_is_not_waited_for(client: Client, answer: Answer) -> None:
    [request] = _ask(client, "1")
    answer(request, RequestKey("bob", "1"))
    assert client.scores(request, timeout=10).user == "ann"
    for gone in (request, RequestKey("bob", "1")):
        began = time.monotonic()
        with pytest.raises(NoAnswerError, match=rf"request '1' of user '{gone.user}' is not under way"):
            client.scores(gone, timeout=60)
        assert time.monotonic() - began < 30


def test_an_id_alone_is_no_request(client: Client) -> None:
    for wrong in (
        lambda: client.scores("1"),  # type: ignore[arg-type]
        lambda: client.scores(("ann", "1")),  # type: ignore[arg-type]
        lambda: client.click("1", "ann", "tea"),  # type: ignore[arg-type]
    ):
        with pytest.raises(EventError, match=r"RequestKey\(user, request_id\)"):
            wrong()


def test_an_answer_to_what_was_asked_before_under_the_same_id_is_no_answer(client: Client, answer: Answer) -> None:
    [request] = _ask(client, "1")
    again = client.impression("ann", [Candidate("jam"), Candidate("bread")], request_id="1")
    assert again == request
    answer(request)
    answer.raw(encode_json(msgspec.structs.replace(_score("1"), items=["jam", "bread"])))
    assert client.scores(again, timeout=10).items == ["jam", "bread"]


def test_unclaimed_answers_are_bounded(kafka: dict[str, str], topics: Topics, answer: Answer) -> None:
    with Client(kafka, topics, keep=3) as client:
        requests = _ask(client, *"abcdefg")
        answer(*requests)
        assert client.scores(requests[-1], timeout=10).request_id == "g"
        assert client.dropped == 4
        assert sorted(_drain(client, 2)) == ["e", "f"]


def test_requests_that_wait_are_bounded(kafka: dict[str, str], topics: Topics, answer: Answer) -> None:
    with Client(kafka, topics, keep=1) as client:
        requests = _ask(client, *map(str, range(12)))
        assert client.dropped == 2
        answer(requests[1], requests[2])
        (arrival,) = client.poll_scores(timeout=10)
        assert arrival.score.request == requests[2], "the oldest are given up first"


def test_what_is_no_answer_is_counted(client: Client, answer: Answer) -> None:
    [good] = _ask(client, "good")
    answer.raw(b"{")
    answer.raw(None)
    answer.raw(b'{"request_id": 1}')
    answer(good)
    assert client.scores(good, timeout=10).request_id == "good"
    assert client.malformed == 3


def test_a_full_buffer_is_waited_for(kafka: dict[str, str], topics: Topics) -> None:
    with Client({**kafka, "queue.buffering.max.messages": "10"}, topics) as client:
        for number in range(500):
            client.behavior("ann", str(number))
    items = [decode_behavior(_value(message)).item for message in _read(kafka, topics.behaviors)]
    assert items == [str(number) for number in range(500)]


@pytest.mark.long
def test_what_kafka_did_not_take_is_raised() -> None:
    sender = ReliableProducer({"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": "100", "log_level": "0"})
    sender.send("behaviors", b"tea")
    with pytest.raises(KafkaClientError, match="behaviors"):
        sender.flush()
    with pytest.raises(KafkaClientError, match="behaviors"):
        sender.send("behaviors", b"tea")


@pytest.mark.long
def test_a_kafka_that_does_not_answer_is_named() -> None:
    with pytest.raises(KafkaClientError, match=r"no use of the Kafka at '127\.0\.0\.1:1': .*Connection refused"):
        Client({"bootstrap.servers": "127.0.0.1:1"}, Topics(), wait_s=3.0)


def test_missing_topics_are_named(kafka: dict[str, str], topic_prefix: str) -> None:
    with (
        Client(kafka, Topics(topic_prefix)) as client,
        pytest.raises(KafkaClientError, match=rf"{topic_prefix}scores.*samstream topics create"),
    ):
        client.impression("ann", CANDIDATES)


def test_events_that_no_reader_would_accept_are_not_written(
    client: Client, kafka: dict[str, str], topics: Topics
) -> None:
    for wrong in (
        lambda: client.behavior("", "tea"),
        lambda: client.behavior("ann", "tea", ts=-1),
        lambda: client.behavior("ann", 7),  # type: ignore[arg-type]
        lambda: client.behavior("ann", "\ud800"),
        lambda: client.impression("ann", []),
        lambda: client.impression("ann", CANDIDATES, slots=0),
        lambda: client.impression("ann", ["tea"]),  # type: ignore[list-item]
        lambda: client.click(RequestKey("ann", "r"), "x" * 257),
        lambda: client.click(RequestKey("", "r"), "tea"),
        lambda: client.click(RequestKey("ann", "r"), "tea", category="x" * 257),
    ):
        with pytest.raises(EventError, match=r"behavior|impression|click"):
            wrong()
    client.flush()
    for topic in (topics.behaviors, topics.impressions, topics.clicks):
        assert _read(kafka, topic) == []


def test_a_time_in_another_unit_is_not_written(client: Client, kafka: dict[str, str], topics: Topics) -> None:
    for wrong, words in (
        (lambda: client.impression("ann", CANDIDATES, ts=int(NOW)), "impression: .*looks like seconds"),
        (lambda: client.click(RequestKey("ann", "r"), "tea", ts=int(NOW)), "click: .*looks like seconds"),
        (lambda: client.behavior("ann", "tea", ts=int(NOW * 1e6)), "behavior: .*looks like microseconds"),
        (lambda: client.impression("ann", CANDIDATES, ts=int(NOW * 1e9)), "impression: .*looks like nanoseconds"),
        (lambda: client.click(RequestKey("ann", "r"), "tea", ts=NOW), "click: .*looks like seconds"),  # type: ignore[arg-type]
    ):
        with pytest.raises(EventError, match=words):
            wrong()
    client.behavior("ann", "tea", ts=int(NOW))
    client.flush()
    assert [len(_read(kafka, topic)) for topic in (topics.impressions, topics.clicks, topics.behaviors)] == [0, 0, 1]


@pytest.mark.durable_broker
def test_writes_and_answers_go_on_after_a_killed_broker(
    kafka: dict[str, str], topics: Topics, broker: Broker, answer: Answer
) -> None:
    with Client(kafka, topics) as client:
        [after] = _ask(client, "after")
        for number in range(1000):
            client.behavior("ann", str(number))
            if number == 300:
                broker.kill()
            if number == 600:
                broker.start()
        client.flush()
        answer(after)
        assert client.scores(after, timeout=30).request_id == "after"
    items = [decode_behavior(_value(message)).item for message in _read(kafka, topics.behaviors)]
    assert items == [str(number) for number in range(1000)]
