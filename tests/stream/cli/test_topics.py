"""`samstream topics` and the settings."""

import pytest

from stream.cli.main import main
from stream.cli.topics import needs_of
from stream.kafka.topic_rules import Needs
from stream.schema.topics import Topics
from stream.settings import Settings
from tests.conftest import PARTITIONS


def test_the_default_needs_are_those_of_the_default_settings() -> None:
    assert needs_of(Settings()) == Needs()


@pytest.mark.parametrize("configured", [PARTITIONS, PARTITIONS + 1])
def test_a_check_tells_of_another_number_of_partitions_in_the_settings_and_does_not_fail_for_it(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, capsys: pytest.CaptureFixture[str], configured: int
) -> None:
    """Kafka's number holds, but `create` refuses the other one."""
    flags = [f"kafka.bootstrap.servers={kafka['bootstrap.servers']}", f"topics.prefix={topic_prefix}"]
    flags.append(f"topics.partitions={configured}")
    status = main(["topics", "check", *(word for flag in flags for word in ("--set", flag))])
    said = capsys.readouterr().out
    assert status == 0
    assert f"all topics exist; those keyed by user have {PARTITIONS} partitions" in said
    assert (f"topics.partitions={configured}" in said) == (configured != PARTITIONS)


def test_a_check_fails_where_a_topic_is_missing(
    kafka: dict[str, str], topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """None is there."""
    flags = [f"kafka.bootstrap.servers={kafka['bootstrap.servers']}", f"topics.prefix={topic_prefix}"]
    assert main(["topics", "check", *(word for flag in flags for word in ("--set", flag))]) == 1
    said = capsys.readouterr().out
    assert f"error: {topic_prefix}clicks: is missing" in said
    assert "all topics exist" not in said
