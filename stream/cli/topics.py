"""`samstream topics`: creates the topics that are missing, checks those that exist, or prints their schemas."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any, Literal

from stream.cli.options import Commands, add_settings_command, load_settings
from stream.errors import TopicError
from stream.kafka import topic_admin
from stream.kafka.topic_rules import Needs
from stream.monitor.records import ArmWindow
from stream.schema.input_schemas import avro_schemas, protobuf_schemas
from stream.schema.json_schema import event_schemas, struct_schema
from stream.schema.topics import Topics
from stream.settings import Settings


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_settings_command(commands, "topics", run, "create or check the topics, or print their schemas")
    parser.add_argument(
        "action",
        choices=["create", "check", "schemas"],
        help="create what is missing; only check; or print the schema of each topic that others write or read",
    )
    parser.add_argument(
        "--format",
        choices=["json", "avro", "protobuf"],
        default="json",
        help="of `schemas`: JSON Schema (default), or Avro or Protobuf for the input topics",
    )
    parser.add_argument("--topic", metavar="NAME", help="of `schemas`: only that of this topic, as a registry takes it")


def run(arguments: argparse.Namespace) -> int:
    """Create or check the topics; returns the exit status: 1 when a topic is missing, or dangerous as it is set."""
    settings = load_settings(arguments)
    topics, needs = Topics(settings.topics.prefix), needs_of(settings)
    if arguments.action == "schemas":
        print(schema_text(settings, arguments.format, arguments.topic))
        return 0
    if arguments.action == "check":
        report = topic_admin.inspect(settings.kafka, topics, partitions=settings.topics.partitions, needs=needs)
        if missing := [topic.name for topic in topics if topic.name not in report.existing]:
            what = ", ".join(missing)
            print(f"samstream topics: {what}: missing; `samstream topics create` makes them", file=sys.stderr)
        else:
            print(f"all topics exist; those keyed by user have {report.partitions} partitions")
    else:
        report = topic_admin.ensure(
            settings.kafka,
            topics,
            partitions=settings.topics.partitions,
            replication=settings.topics.replication,
            needs=needs,
        )
        print(f"created: {', '.join(report.created) or 'none'}\nexisting: {', '.join(report.existing) or 'none'}")
    for finding in report.findings:
        print(finding)
    return 1 if any(finding.severity == "error" for finding in report.findings) else 0


def schema_text(settings: Settings, form: Literal["json", "avro", "protobuf"], topic: str | None = None) -> str:
    """Return the schemas of topics as text: of all that have one in this format, or of one.

    Raises:
        TopicError: for a topic that has none.
    """
    topics = Topics(settings.topics.prefix)
    found: Mapping[str, Any]
    match form:
        case "json":
            found = schemas(settings)
        case "avro":
            found = avro_schemas(topics)
        case "protobuf":
            found = protobuf_schemas(topics)
    if topic is not None and topic not in found:
        raise TopicError(f"--topic {topic}: there are schemas in this format of {', '.join(found)}")
    if form == "protobuf":
        return str(found[topic]) if topic else "\n".join(f"// {name}.proto\n{text}" for name, text in found.items())
    return json.dumps(found[topic] if topic else found, indent=2, ensure_ascii=False)


def schemas(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return topic → JSON Schema of its records' values, for the topics that others write or read as JSON."""
    topics, limits = Topics(settings.topics.prefix), settings.worker
    found = event_schemas(topics, settings.feature_schema(), max_candidates=limits.max_candidates)
    return {**found, topics.experiment_metrics: struct_schema(ArmWindow)}


def needs_of(settings: Settings) -> Needs:
    """Return how long these settings need records to be kept."""
    window_s = settings.worker.attribution_window_s + settings.worker.allowed_lateness_s
    return Needs(
        window_ms=round(1000 * window_s),
        checkpoint_ms=round(1000 * settings.trainer.checkpoint_interval_s),
        monitor_ms=round(1000 * (settings.monitor.window_s + window_s)),
    )
