"""`samstream topics` and the settings."""

from stream.cli.topics import needs_of
from stream.kafka.topic_rules import Needs
from stream.settings import Settings


def test_the_default_needs_are_those_of_the_default_settings() -> None:
    assert needs_of(Settings()) == Needs()
