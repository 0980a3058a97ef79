"""Each rule on the settings of topics: what breaks it, what does not, and how bad that is."""

import pytest

from stream.cli.topics import needs_of
from stream.kafka.topic_rules import Needs, check_settings
from stream.schema.topics import RECORD_BYTES, Topics
from stream.settings import Settings, convert

TOPICS = Topics("shop-")
DAY_MS = 86_400_000
NEEDS = needs_of(Settings())
"""Windows of 60 s with 5 s of lateness, a checkpoint every 30 s, windows of the monitor of 10 s."""


def findings(name: str, changes: dict[str, str], *, needs: Needs = NEEDS, replicas: int = 1) -> list[tuple[str, str]]:
    """Return (severity, text) of what is said when a topic has other settings than samstream would set."""
    configs = {topic.name: dict(topic.config) for topic in TOPICS}
    configs[f"shop-{name}"] |= changes
    found = check_settings(TOPICS, configs, needs, {topic.name: replicas for topic in TOPICS})
    assert {finding.topic for finding in found} <= {f"shop-{name}"}
    return [(finding.severity, finding.text) for finding in found]


def test_what_samstream_makes_breaks_no_rule_and_what_kafka_does_not_say_neither() -> None:
    assert not check_settings(TOPICS, {topic.name: topic.config for topic in TOPICS}, NEEDS, {})
    assert not check_settings(TOPICS, {topic.name: {} for topic in TOPICS}, NEEDS, {})
    assert not check_settings(TOPICS, {}, NEEDS, {})


@pytest.mark.parametrize(
    ("name", "setting", "value", "severity"),
    [
        ("behaviors", "cleanup.policy", "compact", "error"),
        ("impressions", "cleanup.policy", "compact", "error"),
        ("clicks", "cleanup.policy", "compact", "error"),
        ("scores", "cleanup.policy", "compact", "error"),
        ("samples", "cleanup.policy", "compact", "error"),
        ("outcomes", "cleanup.policy", "compact", "error"),
        ("experiment-metrics", "cleanup.policy", "compact", "error"),
        ("dead-letters", "cleanup.policy", "compact", "error"),
        ("behaviors", "cleanup.policy", "delete, compact", "error"),
        ("model-updates", "cleanup.policy", "delete", "error"),
        ("model-updates", "cleanup.policy", "compact,delete", "warning"),
        ("erasures", "cleanup.policy", "delete", "error"),
        ("erasures", "cleanup.policy", "compact,delete", "error"),
        ("behaviors", "retention.ms", str(DAY_MS - 1), "error"),
        ("behaviors", "retention.ms", str(DAY_MS), "warning"),
        ("behaviors", "retention.ms", str(30 * DAY_MS), "note"),
        ("impressions", "retention.ms", "129999", "error"),
        ("impressions", "retention.ms", "130000", "warning"),
        ("scores", "retention.ms", "129999", "error"),
        ("scores", "retention.ms", "130000", "warning"),
        ("clicks", "retention.ms", "64999", "error"),
        ("clicks", "retention.ms", "65000", "warning"),
        ("samples", "retention.ms", "59999", "error"),
        ("samples", "retention.ms", "60000", "warning"),
        ("outcomes", "retention.ms", "74999", "error"),
        ("outcomes", "retention.ms", "75000", "warning"),
        ("dead-letters", "retention.ms", "1", "warning"),
        ("samples", "retention.ms", str(DAY_MS), "note"),
        ("samples", "retention.ms", "-1", "note"),
        ("clicks", "retention.bytes", "1000000", "warning"),
        ("behaviors", "message.timestamp.type", "CreateTime", "error"),
        ("impressions", "message.timestamp.type", "CreateTime", "error"),
        ("clicks", "message.timestamp.type", "CreateTime", "error"),
        ("scores", "max.message.bytes", str(RECORD_BYTES), "error"),
        ("samples", "max.message.bytes", str(RECORD_BYTES), "error"),
        ("outcomes", "max.message.bytes", str(RECORD_BYTES), "error"),
        ("samples", "max.message.bytes", str(RECORD_BYTES + 1000), "note"),
        ("model-updates", "max.message.bytes", "9999", "error"),
        ("dead-letters", "max.message.bytes", "10000", "note"),
        ("samples", "unclean.leader.election.enable", "true", "warning"),
        ("model-updates", "segment.bytes", "1073741824", "note"),
    ],
)
def test_a_setting_that_breaks_a_rule_is_said_once(name: str, setting: str, value: str, severity: str) -> None:
    [(found, text)] = findings(name, {setting: value})
    assert found == severity
    assert text.startswith(f"{setting}={value}")


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("scores", "message.timestamp.type", "CreateTime"),
        ("model-updates", "retention.ms", "1"),
        ("behaviors", "max.message.bytes", "1000"),
        ("clicks", "retention.bytes", "-1"),
    ],
)
def test_what_harms_nobody_is_not_said(name: str, setting: str, value: str) -> None:
    assert not findings(name, {setting: value})


def test_longer_windows_need_longer_retention() -> None:
    day = str(DAY_MS)
    assert not findings("scores", {"retention.ms": day})
    needs = needs_of(convert({"worker": {"attribution_window_s": 43_201.0, "allowed_lateness_s": 0.0}}))
    [(severity, text)] = findings("scores", {"retention.ms": day}, needs=needs)
    assert severity == "error"
    assert "86402000: two attribution windows" in text


def test_replicas_and_what_must_be_in_sync_are_notes() -> None:
    assert not findings("scores", {"min.insync.replicas": "1"}, replicas=1)
    for in_sync, word in (("1", "what one broker has"), ("3", "while one broker is away")):
        configs = {"shop-scores": {"min.insync.replicas": in_sync}}
        [finding] = check_settings(TOPICS, configs, NEEDS, {"shop-scores": 3})
        assert finding.severity == "note"
        assert word in finding.text
    assert not check_settings(TOPICS, {"shop-scores": {"min.insync.replicas": "2"}}, NEEDS, {"shop-scores": 3})


def test_the_worst_is_said_first() -> None:
    changes = {"retention.ms": "1", "retention.bytes": "5", "message.timestamp.type": "CreateTime"}
    assert [severity for severity, _ in findings("clicks", changes)] == ["error", "error", "warning"]
