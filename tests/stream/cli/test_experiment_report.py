"""Reading outcomes and scores: all that Kafka has of the wanted times, and a notice when some are missing."""

import json
import random
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.cli.experiment_report import read_traffic
from stream.cli.main import main
from stream.errors import KafkaClientError
from stream.experiment.assignment import Assignment
from stream.experiment.ledger import Ledger
from stream.experiment.plan import Experiment
from stream.experiment.serving_cost import ServingCosts
from stream.experiment.shadow_log import ShadowLog
from stream.kafka.eraser import erase
from stream.kafka.producer import ReliableProducer
from stream.schema.events import Behavior, Candidate, Impression, Outcome, Score, Spent, encode_json, encode_packed
from stream.schema.topics import Topics
from stream.settings import ArmSettings
from stream.settings.guardrail import Guardrail
from tests.conftest import PARTITIONS


@pytest.fixture
def kafka(kafka: dict[str, str]) -> dict[str, str]:
    """Reading makes many clients, and librdkafka may wait for half of this before a client's first connection."""
    return {**kafka, "reconnect.backoff.ms": "20"}


def outcome(number: int, label: int, ts: int) -> bytes:
    items = ["clicked"] if label else ["one", "two"]
    return encode_packed(
        Outcome(f"r{number}", f"u{number % 7}", "ab"[number % 7 % 2], ts, 1, 1, items, [0] * len(items),
                [0.5] * len(items), [label] * len(items))
    )  # fmt: skip


def score(number: int, ts: int) -> bytes:
    arm = "ab"[number % 7 % 2]
    spent = Spent(wait=1.0, state=0.5, score=2.0, cpu=1.0 + (arm == "b"))
    return encode_json(Score(f"r{number}", f"u{number % 7}", ts, arm, 1, 1, ["x"], [0.5], [0], 1, 0, spent))


def write(kafka: dict[str, str], topics: Topics, numbers: range, start: int) -> None:
    sender = ReliableProducer(kafka)
    for number in numbers:
        partition, ts = number % 7 % PARTITIONS, start + 10 * number
        sender.send(topics.scores, score(number, ts), partition=partition)
        for label in (1, 0):
            sender.send(topics.outcomes, outcome(number, label, ts), partition=partition)
    sender.flush()


def test_everything_of_the_times_is_read_and_what_is_no_outcome_is_counted(
    kafka: dict[str, str], topics: Topics
) -> None:
    now = round(1000 * time.time())
    write(kafka, topics, range(70), now)
    sender = ReliableProducer(kafka)
    sender.send(topics.outcomes, b"\x93nothing", partition=1)
    sender.send(topics.scores, b"{}", partition=1)
    sender.flush()
    ledger, answers = Ledger(since=now + 100, until=now + 500), ServingCosts()
    found = read_traffic(kafka, topics, ledger, answers, begin=None)
    assert (found.outcomes, found.unreadable, found.partitions, found.truncated_partitions) == (141, 1, PARTITIONS, 0)
    assert sum(count.impressions for count in ledger.arms.values()) == 40
    assert sum(len(arm.at) for arm in answers.arms.values()) == 40
    assert answers.arms["b"].cpu_ms == 2.0
    assert answers.arms["a"].latencies().tolist() == [3.5] * len(answers.arms["a"].at)


def test_reading_may_begin_late_and_topics_may_be_empty(kafka: dict[str, str], topics: Topics) -> None:
    assert read_traffic(kafka, topics, Ledger(), ServingCosts(), begin=None).outcomes == 0
    write(kafka, topics, range(20), round(1000 * time.time()))
    assert read_traffic(kafka, topics, Ledger(), ServingCosts(), begin=round(1000 * time.time()) + 60_000).outcomes == 0
    assert read_traffic(kafka, topics, Ledger(), ServingCosts(), begin=1).outcomes == 40


def test_what_retention_removed_is_told_with_the_time_from_which_all_is_there(
    kafka: dict[str, str], topics: Topics
) -> None:
    before = int(1000 * time.time())  # rounded up, it would lie after the first records' Kafka timestamps
    write(kafka, topics, range(70), before)
    first_left = round(1000 * time.time())
    write(kafka, topics, range(70, 140), first_left)
    admin = AdminClient({**kafka, "log_level": 0})
    try:
        for removed in admin.delete_records([TopicPartition(topics.outcomes, 1, 41)]).values():
            removed.result()
    except KafkaException as error:
        pytest.skip(f"this broker removes no records: {error.args[0].str()}")
    found = read_traffic(kafka, topics, Ledger(), ServingCosts(), begin=before)
    assert (found.truncated_partitions, found.outcomes) == (1, 280 - 41)
    assert found.complete_from >= before
    assert read_traffic(kafka, topics, Ledger(), ServingCosts(), begin=None).truncated_partitions == 1
    assert (
        read_traffic(kafka, topics, Ledger(), ServingCosts(), begin=found.complete_from + 60_000).truncated_partitions
        == 0
    )


GUARDRAILS = (
    Guardrail(metric="latency_p99_ms", at_most=50),
    Guardrail(metric="latency_p99_ms", at_most=500),
    Guardrail(metric="unanswered", at_most=0.01),
    Guardrail(metric="action", action="hide", within_s=30, at_most=0.05),
)


def test_guardrails_are_judged_on_what_the_topics_have(kafka: dict[str, str], topics: Topics) -> None:
    """Hours of the past: of a's answers each 20th is slow, of its requests each 30th unanswered and 7th hidden."""
    experiment = Experiment(name="g", arms=(ArmSettings(name="a"), ArmSettings(name="b")), guardrails=GUARDRAILS)
    ledger, answers = Ledger(), ServingCosts()
    counts = experiment.guardrail_counts(ledger, answers, salt="g-1", users=None, now=round(1000 * time.time()))
    assert counts is not None
    of = Assignment(experiment.shares, salt="g-1").arm
    start = round(1000 * time.time()) - 2 * 3_600_000
    sender = ReliableProducer(kafka)
    places, rng = {"a": 0, "b": 0}, random.Random(0)
    for number in range(12_000):
        who, ts = rng.randrange(500), start + 600 * number
        user, partition = f"u{who}", who % PARTITIONS
        arm = of(user)
        places[arm] += 1
        bad = places[arm] if arm == "a" else 1
        ask = Impression(f"r{number}", user, ts, [Candidate("x"), Candidate("y")], slots=1)
        sender.send(topics.impressions, encode_json(ask), partition=partition)
        if bad % 30:
            spent = Spent(wait=100.0 if bad % 20 == 0 else 5.0, state=0.0, score=1.0)
            given = Score(ask.request_id, user, ts, arm, 1, 1, ["x", "y"], [0.5, 0.4], [0, 1], 1, 0, spent)
            sender.send(topics.scores, encode_json(given), partition=partition)
        missed = Outcome(ask.request_id, user, arm, ts, 1, 1, ["x"], [0], [0.5], [0])
        sender.send(topics.outcomes, encode_packed(missed), partition=partition)
        if bad % 7 == 0:
            hide = Behavior(user, "x", ts + 1000, action="hide")
            sender.send(topics.behaviors, encode_json(hide), partition=partition)
    sender.flush()
    read_traffic(kafka, topics, ledger, answers, begin=None, guardrails=counts)
    found = {(each.guardrail, each.arm): each for each in experiment.guardrail_results(counts, ledger.sums)}
    slow, ever, unanswered, hidden = (
        {arm: found[guardrail.name, arm] for arm in "ab"} for guardrail in experiment.guardrails
    )
    assert [slow[arm].state for arm in "ab"] == ["breaks", "holds"]
    assert [ever[arm].state for arm in "ab"] == ["holds", "holds"]
    assert [unanswered[arm].state for arm in "ab"] == ["breaks", "holds"]
    assert [hidden[arm].state for arm in "ab"] == ["breaks", "holds"]
    assert unanswered["a"].value == pytest.approx(1 / 30, rel=0.02)
    assert hidden["a"].value == pytest.approx(1 / 7, rel=0.02)


def test_a_ramp_is_reported_from_its_last_step_on_and_holds_no_user_against_the_experiment(
    kafka: dict[str, str], topics: Topics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = round(1000 * time.time()) - 3_600_000
    step = start + 100 * 3000
    stages = [Assignment(shares, salt="r-1").arm for shares in ({"a": 1, "b": 0.1}, {"a": 1, "b": 1})]
    sender = ReliableProducer(kafka)
    for number in range(6000):
        who, ts = number % 400, start + 100 * number
        user, partition = f"u{who}", who % PARTITIONS
        arm = stages[ts >= step](user)
        missed = Outcome(
            f"r{number}", user, arm, ts, 1, 1, ["x"], [0], [0.5], [int(number % (5 if arm == "a" else 3) == 0)]
        )
        sender.send(topics.outcomes, encode_packed(missed), partition=partition)
    sender.flush()
    text = 'name = "r"\nsalt = "r-1"\n[[arms]]\nname = "a"\n[[arms]]\nname = "b"\nlength = 50\n'
    (plain := tmp_path / "plain.toml").write_text(text)
    at = datetime.fromtimestamp(step / 1000, UTC).isoformat()
    ramp = f"[[ramp]]\nat = {at}\nshares = {{ b = 1 }}\n"
    (ramped := tmp_path / "ramped.toml").write_text(text.replace("length", "share = 0.1\nlength") + ramp)
    where = [
        "--bootstrap",
        kafka["bootstrap.servers"],
        "--set",
        f"topics.prefix={topics.scores.removesuffix('scores')}",
        "--set",
        f"kafka.reconnect.backoff.ms={kafka['reconnect.backoff.ms']}",
    ]

    def report(file: Path) -> dict[str, Any]:
        assert main(["experiment", "report", str(file), *where, "--report", str(tmp_path / file.stem)]) == 0
        found: dict[str, Any] = json.loads((tmp_path / file.stem / "report.json").read_text())
        return found | {"states": {check["name"]: check["state"] for check in found["checks"]}}

    assert report(plain)["states"]["crossed"] == "fatal"
    found = report(ramped)
    assert found["states"] == found["states"] | {
        "crossed": "fine",
        "divided": "fine",
        "assigned": "fine",
        "ramp": "note",
    }
    assert sum(arm["users"] for arm in found["arms"].values()) == 400
    assert 2900 < found["impressions"] <= 3000
    moved = sum(stages[0](user) != stages[1](user) for user in (f"u{who}" for who in range(400)))
    assert any(f"{moved} of 400 users" in check["answer"] for check in found["checks"])
    capsys.readouterr()
    assert main(["experiment", "report", str(ramped), *where, "--since", "1h", "--before", "2h"]) == 1
    assert "--before: a step of the ramp begins the report" in capsys.readouterr().err


def test_erased_users_are_left_out_of_reports_and_estimates_and_count_anew_when_they_come_back(
    kafka: dict[str, str], topics: Topics
) -> None:
    guardrails = (Guardrail(metric="action", action="hide", within_s=30, at_most=0.05),)
    experiment = Experiment(name="e", arms=(ArmSettings(name="a"), ArmSettings(name="b")), guardrails=guardrails)
    start, sender = round(1000 * time.time()) - 3_600_000, ReliableProducer(kafka)
    spent = Spent(wait=1.0, state=0.0, score=1.0)

    def visit(number: int, user: str, read_to: int) -> None:
        ts = start + 100 * number
        given = Score(f"r{number}", user, ts, "a", 1, 1, ["x"], [0.5], [0], 1, 0, spent, read_to=read_to)
        counted = Outcome(f"r{number}", user, "a", ts, 1, 1, ["x"], [0], [0.5], [0], read_to=read_to)
        sender.send(topics.scores, encode_json(given), key=user.encode())
        sender.send(topics.outcomes, encode_packed(counted), key=user.encode())
        sender.send(topics.behaviors, encode_json(Behavior(user, "x", ts + 1, action="hide")), key=user.encode())

    for number in range(40):
        visit(number, f"u{number % 4}", 0)
    sender.flush()
    (written,) = erase(kafka, topics, ["u1"])
    visit(40, "u1", written.marker + 1)
    sender.flush()

    ledger, answers, log = Ledger(), ServingCosts(), ShadowLog()
    counts = experiment.guardrail_counts(ledger, answers, salt="e-1", users=None, now=round(1000 * time.time()))
    kept = read_traffic(kafka, topics, ledger, answers, begin=None, guardrails=counts, on_score=log.add_score)
    assert (kept.erased, kept.outcomes) == (10, 41)
    moments = ledger.sums.moments("a")
    assert (int(moments.count), int(moments.total[0])) == (4, 31)
    assert len(answers.arms["a"].at) == 41  # a latency is nobody's

    other = Ledger()
    other.on_counted = log.add_counted
    read_traffic(kafka, topics, other, ServingCosts(), begin=None)
    assert Counter(each.user for each in log.impressions()) == {"u0": 10, "u1": 1, "u2": 10, "u3": 10}
    assert counts is not None
    assert counts.actions(["u1"], "hide", 30.0).tolist() == [[1, 1]]
    assert counts.actions(["u0"], "hide", 30.0).tolist() == [[10, 10]]


def test_topics_that_are_not_there_are_named(kafka: dict[str, str], topic_prefix: str) -> None:
    with pytest.raises(KafkaClientError, match=f"{topic_prefix}outcomes.*samstream topics create"):
        read_traffic(kafka, Topics(topic_prefix), Ledger(), ServingCosts(), begin=None)
