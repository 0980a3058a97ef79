"""`samstream topics`: creates the topics that are missing, or checks those that exist."""

import argparse

from stream.cli.options import Commands, add_settings_command, load_settings
from stream.kafka import topic_admin
from stream.schema.topics import Topics


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_settings_command(commands, "topics", run, "create or check the topics")
    parser.add_argument("action", choices=["create", "check"], help="create what is missing, or only check")


def run(arguments: argparse.Namespace) -> int:
    """Create or check the topics; returns the exit status."""
    settings = load_settings(arguments)
    topics = Topics(settings.topics.prefix)
    if arguments.action == "check":
        partitions = topic_admin.verify(settings.kafka, topics)
        print(f"all topics exist; those keyed by user have {partitions} partitions")
        return 0
    report = topic_admin.ensure(
        settings.kafka, topics, partitions=settings.topics.partitions, replication=settings.topics.replication
    )
    print(f"created: {', '.join(report.created) or 'none'}\nexisting: {', '.join(report.existing) or 'none'}")
    for topic, setting, actual, wanted in report.different:
        print(f"note: {topic} has {setting}={actual}; samstream would set {wanted}")
    return 0
