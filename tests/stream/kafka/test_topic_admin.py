"""Topics are created once, checked always, and never changed."""

import re
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from stream.errors import KafkaClientError, SettingsError, TopicError
from stream.kafka import topic_admin as topics_module
from stream.kafka.topic_admin import ensure, inspect, verify
from stream.local.broker import local_broker
from stream.schema.topics import RECORD_BYTES, Topics

USER_KEYED = {"behaviors", "impressions", "clicks", "scores", "samples", "outcomes", "erasures"}
OTHERS = {"model-updates", "experiment-metrics", "experiment-shares", "dead-letters"}


def _counts(kafka: dict[str, str], prefix: str) -> dict[str, int]:
    listed = AdminClient({**kafka, "log_level": 0}).list_topics(timeout=10).topics
    return {
        name.removeprefix(prefix): len(topic.partitions) for name, topic in listed.items() if name.startswith(prefix)
    }


def _create(kafka: dict[str, str], name: str, partitions: int, config: dict[str, str] | None = None) -> None:
    new = NewTopic(name, partitions, 1, config=config or {})
    admin = AdminClient({**kafka, "log_level": 0})
    admin.create_topics([new])[name].result()
    deadline = time.monotonic() + 10
    while name not in _counts(kafka, ""):
        assert time.monotonic() < deadline, f"{name} does not show"


def test_names_keys_and_counts() -> None:
    topics = {topic.name: topic for topic in Topics("shop-")}
    assert set(topics) == {f"shop-{name}" for name in USER_KEYED | OTHERS}
    for name, topic in topics.items():
        keyed = name.removeprefix("shop-") in USER_KEYED
        assert (topic.key == "user") == keyed
        assert topic.partitions(8) == (8 if keyed else 1)
    for name in ("model-updates", "erasures"):
        assert topics[f"shop-{name}"].config["cleanup.policy"] == "compact"
    assert topics["shop-experiment-shares"].config["retention.ms"] == "-1"
    assert int(topics["shop-samples"].config["max.message.bytes"]) > RECORD_BYTES
    assert Topics().behaviors == "behaviors"


@pytest.mark.parametrize("prefix", ["a b", "grüße-", "a/b", "x" * 201])
def test_refuses_a_prefix_that_kafka_refuses(prefix: str) -> None:
    with pytest.raises(TopicError, match=r"topics\.prefix"):
        Topics(prefix)


def test_creates_once_and_then_finds(kafka: dict[str, str], topic_prefix: str) -> None:
    names = Topics(topic_prefix)
    first = ensure(kafka, names, partitions=3, replication=1)
    assert sorted(first.created) == sorted(topic.name for topic in names)
    assert not first.existing
    assert _counts(kafka, topic_prefix) == dict.fromkeys(USER_KEYED, 3) | dict.fromkeys(OTHERS, 1)
    again = ensure(kafka, names, partitions=3, replication=1)
    assert not again.created
    assert sorted(again.existing) == sorted(first.created)
    assert not again.findings, "what was created has the settings that were asked for"
    assert verify(kafka, names) == 3


def test_creates_only_what_is_missing(kafka: dict[str, str], topic_prefix: str) -> None:
    names = Topics(topic_prefix)
    stamped = {"message.timestamp.type": "LogAppendTime"}
    _create(kafka, names.behaviors, 2, {"cleanup.policy": "delete", "retention.ms": "60000", **stamped})
    report = ensure(kafka, names, partitions=2, replication=1)
    assert report.existing == [names.behaviors]
    assert len(report.created) == 10
    [finding] = report.findings
    assert (finding.severity, finding.topic) == ("error", names.behaviors)
    assert finding.text.startswith("retention.ms=60000 is less than 86400000")
    assert inspect(kafka, names, partitions=2).findings == report.findings


def test_names_every_wrong_count_and_changes_nothing(kafka: dict[str, str], topic_prefix: str) -> None:
    names = Topics(topic_prefix)
    _create(kafka, names.clicks, 5)
    _create(kafka, names.dead_letters, 2)
    with pytest.raises(TopicError) as caught:
        ensure(kafka, names, partitions=3, replication=1)
    assert f"{names.clicks}: has 5 partitions, must have 3" in str(caught.value)
    assert f"{names.dead_letters}: has 2 partitions, must have 1" in str(caught.value)
    assert _counts(kafka, topic_prefix) == {"clicks": 5, "dead-letters": 2}


def test_a_check_says_of_every_topic_what_is_wrong_with_it(kafka: dict[str, str], topic_prefix: str) -> None:
    """What is missing keeps nothing back of the others, and what `ensure` would refuse is said."""
    names = Topics(topic_prefix)
    _create(kafka, names.behaviors, 3, {"retention.ms": "60000"})
    _create(kafka, names.clicks, 5)
    report = inspect(kafka, names, partitions=5)
    said = [(finding.severity, finding.topic, finding.text) for finding in report.findings]
    missing = {finding.topic for finding in report.findings if "is missing" in finding.text}
    assert missing == {topic.name for topic in names} - {names.behaviors, names.clicks}
    assert all("samstream topics create" in text for _, topic, text in said if topic in missing)
    assert ("error", names.clicks, "has 5 partitions, must have 3") in said
    of_behaviors = [(severity, text) for severity, topic, text in said if topic == names.behaviors]
    assert [severity for severity, text in of_behaviors if "topics.partitions=5" in text] == ["warning"]
    assert any(text.startswith("retention.ms=60000") for _, text in of_behaviors)
    assert (report.existing, report.partitions) == ([names.behaviors, names.clicks], 3)
    severities = [severity for severity, _, _ in said]
    assert severities == sorted(severities, key=("error", "warning", "note").index)


def test_verify_names_what_is_missing(kafka: dict[str, str], topic_prefix: str) -> None:
    names = Topics(topic_prefix)
    _create(kafka, names.behaviors, 2)
    with pytest.raises(TopicError, match=re.escape(names.impressions)) as caught:
        verify(kafka, names)
    assert "samstream topics create" in str(caught.value)


def test_verify_refuses_topics_that_are_not_co_partitioned(kafka: dict[str, str], topic_prefix: str) -> None:
    names = Topics(topic_prefix)
    _create(kafka, names.samples, 4)
    for topic in names:
        if topic.name != names.samples:
            _create(kafka, topic.name, topic.partitions(2))
    with pytest.raises(TopicError, match=re.escape(f"{names.samples}: has 4 partitions, must have 2")):
        verify(kafka, names)


def test_two_at_the_same_time(kafka: dict[str, str], topic_prefix: str) -> None:
    names = Topics(topic_prefix)
    errors: list[Exception] = []

    def work() -> None:
        try:
            ensure(kafka, names, partitions=2, replication=1)
        except TopicError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert verify(kafka, names) == 2


@pytest.mark.broker
def test_waits_for_a_broker_that_starts_later(tmp_path: Path) -> None:
    with local_broker("embedded", tmp_path) as broker:
        broker.stop()
        result: list[topics_module.Report] = []
        kafka = {"bootstrap.servers": broker.bootstrap}

        def work() -> None:
            result.append(ensure(kafka, Topics(), partitions=1, replication=1, deadline_s=120.0))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive(), "it gave up, or found a broker that is not there"
        broker.start()
        thread.join(130)
        assert [len(report.created) for report in result] == [11]


@pytest.mark.long
def test_gives_up_with_the_address_and_the_reason() -> None:
    began = time.monotonic()
    with pytest.raises(KafkaClientError, match=r"'127\.0\.0\.1:1'.*refused"):
        ensure({"bootstrap.servers": "127.0.0.1:1"}, Topics(), partitions=1, replication=1, deadline_s=3.0)
    assert time.monotonic() - began < 10


def test_a_wrong_property_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no\.such\.property"):
        ensure({"no.such.property": "1"}, Topics(), partitions=1, replication=1)
