"""HTTP beside Kafka: real servers, real requests, a real broker."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from stream.kafka.dead_letters import read_dead_letters
from stream.kafka.offsets import GroupLag
from stream.local.broker import Broker
from stream.local.ports import free_port
from stream.schema.events import (
    Impression,
    RequestKey,
    Withdrawal,
    decode_behavior,
    decode_click,
    decode_outcome,
    decode_sample,
    decode_score,
)
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from tests.e2e.harness import USERS, Harness, wait_for
from tests.e2e.http_gateway import HttpGateway, asked, give_score, question
from tests.e2e.served import served
from tests.e2e.test_broker_trouble import frozen

PATIENT = "gateway.deadline_s=30"
MINDFUL = "gateway.remember_s=600"  # longer than a test takes
KEY = "a-key-of-the-shop-01"
PROBLEM = "application/problem+json"
NDJSON = "application/x-ndjson"


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Iterator[Harness]:
    with Harness(kafka, topics, topic_prefix, tmp_path) as harness:
        yield harness


def wait_for_questions(harness: Harness, count: int) -> list[Impression]:
    """Wait until so many impressions are in Kafka."""

    def questions() -> list[Impression]:
        return [each for each in asked(harness) if isinstance(each, Impression)]

    wait_for(lambda: len(questions()) >= count, f"{count} impressions", processes=harness.processes)
    return questions()


def test_an_answer_is_the_one_in_scores_and_its_clicks_are_learned(harness: Harness) -> None:
    harness.processes.start("trainer", "trainer")
    harness.start_worker("worker")
    gateway = HttpGateway(harness, PATIENT)
    lines = "".join(f'{{"user":"user-1","item":"item-{number}","category":"c"}}\n' for number in range(5))
    assert gateway.post("/v1/behaviors", lines.encode(), kind=NDJSON).body == {"written": 5}
    assert gateway.post("/v1/behaviors", {"user": "user-1", "item": "item-9"}).status == 202
    reply = gateway.rank("user-1", "r-1")
    assert reply.status == 200
    [score] = [decode_score(value) for value in harness.read(harness.topics.scores)]
    assert reply.body == {
        "request_id": "r-1",
        "user": "user-1",
        "ranked_by": "model",
        "items": [{"item": score.items[index], "probability": score.probabilities[index]} for index in score.order],
        "slots": 2,
        "arm": score.arm,
        "epoch": score.epoch,
        "version": score.version,
        "seen": 6,
        "why": [],
    }
    why = gateway.post("/v1/rank", question("user-1", "r-2") | {"explain": True}).body["why"]
    times = {decode_behavior(value).ts for value in harness.read(harness.topics.behaviors)}
    assert {reason["ts"] for reason in why} <= times
    assert bool(why) == (score.arm == "sam")
    shown = [each["item"] for each in reply.body["items"][:2]]
    clicked = gateway.post("/v1/click", {"user": "user-1", "request_id": "r-1", "item": shown[0], "category": "c"})
    assert (clicked.status, clicked.body) == (202, {"written": 2})
    [click] = [decode_click(value) for value in harness.read(harness.topics.clicks)]
    behavior = [decode_behavior(value) for value in harness.read(harness.topics.behaviors)][-1]
    assert (behavior.item, behavior.action, behavior.ts) == (shown[0], "click", click.ts)
    harness.close_windows()
    wait_for(lambda: harness.trained() == 4, "two learned items of each list", processes=harness.processes)


def test_what_was_answered_without_a_score_is_not_learned(harness: Harness) -> None:
    """The worker comes too late: it answers, and what the model would have shown is no negative."""
    gateway = HttpGateway(harness, "gateway.deadline_s=0.2", MINDFUL)
    late = gateway.rank("user-1", "late")
    assert late.status == 200
    assert late.body["ranked_by"] == "candidates"
    assert [each["item"] for each in late.body["items"]] == [f"item-{number}" for number in range(4)]
    assert {each["probability"] for each in late.body["items"]} == {None}
    assert "arm" not in late.body or late.body["arm"] is None
    assert gateway.post("/v1/click", {"user": "user-1", "request_id": "late", "item": "item-0"}).status == 202
    wait_for(lambda: len(asked(harness)) >= 2, "both records", processes=harness.processes)
    [impression, withdrawal] = asked(harness)
    assert isinstance(impression, Impression)
    assert isinstance(withdrawal, Withdrawal)
    assert withdrawal.request == impression.request
    harness.processes.start("trainer", "trainer")
    harness.start_worker("worker")
    harness.client.impression("user-1", impression.candidates, 2, request_id="shown")
    wait_for(lambda: len(harness.read(harness.topics.scores)) == 2, "both answers", processes=harness.processes)
    assert gateway.rank("user-1", "late").body == late.body, "the same request has the same answer"
    harness.close_windows()
    wait_for(lambda: harness.trained() == 2, "what was shown to be learned", processes=harness.processes)
    with closing(GroupLag(harness.settings.kafka, harness.settings.worker.group)) as lag:
        wait_for(lambda: not lag.of(harness.topics.behaviors, 4), "all to be read", processes=harness.processes)
    samples = {decode_sample(value).request_id for value in harness.read(harness.topics.samples)}
    outcomes = {decode_outcome(value).request_id for value in harness.read(harness.topics.outcomes)}
    assert samples == outcomes == {"shown"}
    assert not list(read_dead_letters(harness.settings.kafka, harness.topics))


def test_a_repeated_request_is_written_once_and_answered_alike_also_by_a_restarted_gateway(harness: Harness) -> None:
    gateway = HttpGateway(harness, PATIENT, MINDFUL)
    waiting = [gateway.later(lambda: gateway.rank("user-1", "r")) for _ in range(8)]
    [impression] = wait_for_questions(harness, 1)
    give_score(harness, impression)
    replies = [each.result() for each in waiting]
    assert {reply.status for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert gateway.rank("user-1", "r").content == replies[0].content
    conflict = gateway.rank("user-1", "r", items=3)
    assert (conflict.status, conflict.headers["Content-Type"]) == (409, PROBLEM)
    harness.end(gateway.name)
    gateway.start()
    assert gateway.rank("user-1", "r").content == replies[0].content
    assert gateway.post("/v1/click", {"user": "user-1", "request_id": "r", "item": "no such"}).status == 422
    assert len(asked(harness)) == 1


def test_without_a_score_it_is_504_where_the_settings_say_so(harness: Harness) -> None:
    gateway = HttpGateway(harness, "gateway.deadline_s=0.2", "gateway.on_timeout=error")
    for _ in range(2):
        reply = gateway.rank("user-1", "r")
        assert (reply.status, reply.headers["Content-Type"]) == (504, PROBLEM)
        assert "withdrawn" in reply.body["detail"]
    # Both are on their way when the caller is answered.
    wait_for(lambda: len(asked(harness)) >= 2, "both records", processes=harness.processes)
    assert [type(each) for each in asked(harness)] == [Impression, Withdrawal]


def test_without_a_score_the_order_may_be_that_of_what_was_ranked_high_before(harness: Harness) -> None:
    gateway = HttpGateway(harness, "gateway.deadline_s=3", "gateway.on_timeout=popularity")
    ranked = gateway.later(lambda: gateway.rank("user-1", "r", items=4))
    [impression] = wait_for_questions(harness, 1)
    give_score(harness, impression)
    order = [each["item"] for each in ranked.result().body["items"]]
    assert ranked.result().body["ranked_by"] == "model"
    unranked = gateway.rank("user-2", "r", items=6)
    assert (unranked.status, unranked.body["ranked_by"]) == (200, "popularity")
    items = unranked.body["items"]
    assert [each["item"] for each in items[:4]] == order
    assert {each["probability"] for each in items} == {None}
    assert gateway.rank("user-2", "r", items=6).content == unranked.content


def test_more_than_it_may_hold_is_429_at_once_and_what_it_holds_is_answered(harness: Harness) -> None:
    gateway = HttpGateway(harness, PATIENT, "gateway.max_in_flight=3")
    waiting = [
        gateway.later(lambda number=number: gateway.rank(USERS[number], "r"))  # type: ignore[misc]
        for number in range(3)
    ]
    impressions = wait_for_questions(harness, 3)
    refused = gateway.rank("user-9", "r")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert gateway.post("/v1/behaviors", {"user": "u", "item": "i"}).status == 429
    assert gateway.get("/v1/health").status == 200
    for impression in impressions:
        give_score(harness, impression)
    assert [each.result().status for each in waiting] == [200] * 3
    assert len(asked(harness)) == 3


def test_what_cannot_be_used_is_a_problem_that_names_the_field_and_nothing_is_written(
    harness: Harness, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    gateway = HttpGateway(harness, f"gateway.keys={keys}", "gateway.max_body_bytes=5000")
    twice = {"user": "u", "candidates": [{"item": "a"}, {"item": "a"}]}
    missing = b'{"user":"u","item":"i"}\n{"user":"u"}\n'
    for path, body, kind, status, pointer in (
        ("/v1/rank", {"candidates": [{"item": "a"}]}, "application/json", 422, "/user"),
        ("/v1/rank", twice, "application/json", 422, "/candidates"),
        ("/v1/rank", {"user": "u", "candidates": [{"item": "a"}], "ts": 5}, "application/json", 422, "/ts"),
        ("/v1/rank", b"{", "application/json", 400, None),
        ("/v1/rank", b"", "application/json", 400, None),
        ("/v1/rank", b"\xff", "application/json", 400, None),
        ("/v1/rank", b"[" * 4000, "application/json", 422, ""),
        ("/v1/rank", b'{"a":' * 900, "application/json", 400, None),
        ("/v1/rank", b"x" * 5001, "application/json", 413, None),
        ("/v1/click", {"user": "u", "request_id": "r"}, "application/json", 422, "/item"),
        ("/v1/behaviors", {"user": "u", "item": "i", "ts": "now"}, "application/json", 422, "/ts"),
        ("/v1/behaviors", missing, NDJSON, 422, "/item"),
        ("/v1/behaviors", missing, "application/json", 400, None),
        ("/v1/nothing", {}, "application/json", 404, None),
        ("/v1/health", {}, "application/json", 405, None),
    ):
        reply = gateway.post(path, body, kind=kind, key=KEY)
        assert (reply.status, reply.headers["Content-Type"]) == (status, PROBLEM), (path, body, reply)
        assert reply.body["status"] == status
        assert reply.body["detail"]
        assert (pointer is None) == ("errors" not in reply.body)
        if pointer is not None:
            assert reply.body["errors"][0]["pointer"] == pointer
    assert reply.headers["Allow"]
    for key in ("", "a-key-of-the-shop-02"):
        reply = gateway.post("/v1/behaviors", {"user": "u", "item": "i"}, key=key)
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert gateway.get("/v1/health").status == 200
    assert not harness.read(harness.topics.behaviors) + harness.read(harness.topics.impressions)


@pytest.mark.slow
def test_gateways_that_share_the_users_read_their_own_scores_and_answer_everybody(harness: Harness) -> None:
    ports, metrics = [free_port(), free_port()], [free_port(), free_port()]
    peers = ",".join(f'"http://127.0.0.1:{port}"' for port in ports)
    gateways = [
        HttpGateway(
            harness,
            "gateway.deadline_s=20",
            f"gateway.peers=[{peers}]",
            f"gateway.peer={number}",
            f"gateway.metrics=127.0.0.1:{metrics[number]}",
            name=f"gateway-{number}",
            port=port,
        )
        for number, port in enumerate(ports)
    ]
    harness.start_worker("worker")
    first = [gateways[number % 2].rank(user, "r").body for number, user in enumerate(USERS)]
    other = [gateways[(number + 1) % 2].rank(user, "r").body for number, user in enumerate(USERS)]
    assert first == other, "a repeated request has one answer, whichever gateway is asked"
    assert [body["user"] for body in first] == USERS
    assert {body["ranked_by"] for body in first} == {"model"}
    assert len(asked(harness)) == len(USERS)
    of_first = sum(partition_of(user.encode(), 4) % 2 == 0 for user in USERS)
    wait_for(
        lambda: (
            [served(port)["samstream_records_total", "gateway"] for port in metrics]
            == [of_first, len(USERS) - of_first]
        ),
        "each to have read its own scores alone",
    )
    harness.end("gateway-1")
    user = next(user for user in USERS if partition_of(user.encode(), 4) % 2)
    reply = gateways[0].rank(user, "r2")
    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert gateways[0].rank(next(u for u in USERS if partition_of(u.encode(), 4) % 2 == 0), "r2").status == 200


def test_gateways_that_disagree_about_their_peers_say_so(harness: Harness) -> None:
    ports = [free_port(), free_port()]
    peers = ",".join(f'"http://127.0.0.1:{port}"' for port in ports)
    gateways = [
        HttpGateway(harness, f"gateway.peers=[{peers}]", "gateway.peer=0", name=f"gateway-{number}", port=port)
        for number, port in enumerate(ports)
    ]
    user = next(user for user in USERS if partition_of(user.encode(), 4) % 2)
    reply = gateways[0].rank(user, "r")
    assert reply.status == 503
    assert "gateway.peers" in reply.body["detail"]


@pytest.mark.slow
def test_gateways_that_know_nothing_of_each_other_get_their_own_answers(harness: Harness) -> None:
    gateways = [HttpGateway(harness, PATIENT, name=f"gateway-{number}") for number in range(2)]
    harness.start_worker("worker")
    waiting = [
        gateways[number % 2].later(
            lambda user=user, number=number: gateways[number % 2].rank(user, f"r{number}")  # type: ignore[misc]
        )
        for number, user in enumerate(USERS)
    ]
    replies = [each.result().body for each in waiting]
    assert [(body["user"], body["request_id"]) for body in replies] == [
        (user, f"r{number}") for number, user in enumerate(USERS)
    ]
    assert {body["ranked_by"] for body in replies} == {"model"}


def test_a_broker_that_is_away_costs_scores_and_nothing_else(harness: Harness, broker: Broker) -> None:
    gateway = HttpGateway(harness, "gateway.deadline_s=0.3", "gateway.max_unacknowledged=5")
    harness.start_worker("worker")
    assert gateway.rank("user-1", "warm", slots=1).status == 200
    with frozen(broker):
        for number in range(2):
            assert gateway.rank("user-1", f"away-{number}").body["ranked_by"] == "candidates"
        statuses = [gateway.rank("user-1", f"more-{number}").status for number in range(3)]
        assert statuses[-1] == 503, "what Kafka does not take is bounded"
    numbers = count()
    wait_for(
        lambda: gateway.rank("user-1", f"again-{next(numbers)}").body.get("ranked_by") == "model",
        "scores to come again",
        processes=harness.processes,
    )
    requests = asked(harness)
    withdrawn = {each.request for each in requests if isinstance(each, Withdrawal)}
    assert {RequestKey("user-1", "away-0"), RequestKey("user-1", "away-1")} <= withdrawn


def test_ctrl_c_finishes_what_is_under_way_and_takes_nothing_new(harness: Harness) -> None:
    gateway = HttpGateway(harness, PATIENT)
    waiting = gateway.later(lambda: gateway.rank("user-1", "r"))
    [impression] = wait_for_questions(harness, 1)
    process = harness.processes.release(gateway.name)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: gateway.get("/v1/health").status == 503, "it to say that it ends")
    refused = gateway.rank("user-2", "r")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert process.poll() is None
    give_score(harness, impression)
    assert waiting.result().body["ranked_by"] == "model"
    assert process.wait(20) == 0
    assert "Traceback" not in harness.processes.log(gateway.name).read_text()


def test_it_speaks_tls(harness: Harness, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=gateway"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    settings = (f"gateway.certificate={certificate}", f"gateway.certificate_key={key}")
    gateway = HttpGateway(harness, *settings, tls=str(certificate))
    assert gateway.post("/v1/behaviors", {"user": "u", "item": "i"}).body == {"written": 1}
    harness.end(gateway.name)
    key.write_text("nonsense")
    harness.processes.start("broken", "gateway", "--set", settings[0], "--set", settings[1])
    assert "gateway.certificate" in harness.last_words("broken")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("gateway.address=0.0.0.0:0", "gateway.keys"),
        ("gateway.address=127.0.0.1", "HOST:PORT"),
        ("gateway.keys=/nowhere", "/nowhere"),
    ],
)
def test_what_cannot_be_served_is_said_at_the_start(harness: Harness, setting: str, says: str) -> None:
    pytest.importorskip("litestar", reason="litestar is not installed: pip install -e '.[gateway]'")
    harness.processes.start("gateway", "gateway", "--set", setting)
    assert says in harness.last_words("gateway")


def test_the_page_and_its_description_load_nothing_from_elsewhere(harness: Harness) -> None:
    gateway = HttpGateway(harness)
    page = gateway.get("/docs")
    assert page.status == 200
    assert "text/html" in page.headers["Content-Type"]
    assert b"http://" not in page.content
    assert b"https://" not in page.content
    api = gateway.get("/docs/openapi.json").body
    assert {path: list(methods) for path, methods in api["paths"].items()} == {
        "/v1/rank": ["post"],
        "/v1/click": ["post"],
        "/v1/behaviors": ["post"],
        "/v1/health": ["get"],
    }
    assert api["paths"]["/v1/rank"]["post"]["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/RankAnswer"
    }
