"""Reading outcomes and scores: all that Kafka has of the wanted times, and a notice when some are missing."""

import time

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.cli.experiment_report import read_traffic
from stream.errors import KafkaClientError
from stream.experiment.ledger import Ledger
from stream.experiment.serving_cost import ServingCosts
from stream.kafka.producer import ReliableProducer
from stream.schema.events import Outcome, Score, Spent, encode_json, encode_packed
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS


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


def test_topics_that_are_not_there_are_named(kafka: dict[str, str], topic_prefix: str) -> None:
    with pytest.raises(KafkaClientError, match=f"{topic_prefix}outcomes.*samstream topics create"):
        read_traffic(kafka, Topics(topic_prefix), Ledger(), ServingCosts(), begin=None)
