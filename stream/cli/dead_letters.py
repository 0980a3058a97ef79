"""`samstream dead-letters`: lists refused records with the reason, and sends them again once the cause is fixed."""

import argparse
import time
from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream.cli.options import Commands, add_settings_command, load_settings, offset_range, positive_int
from stream.kafka.clients import check_connection
from stream.kafka.dead_letters import DeadLetter, read_dead_letters
from stream.kafka.producer import ReliableProducer
from stream.runtime.logs import printable
from stream.schema.topics import Topics
from stream.settings import Settings

_SHOWN_BYTES = 80


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "list the records that were refused, or send them again"
    parser = add_settings_command(commands, "dead-letters", run, text)
    parser.add_argument("action", choices=["list", "resend"], help="resend writes to the topics they came from")
    parser.add_argument("--topic", metavar="NAME", help="only those from this topic (without the prefix)")
    parser.add_argument("--reason", metavar="TEXT", help="only those whose reason contains this text")
    parser.add_argument(
        "--offsets", type=offset_range, metavar="A-B", help="only those at these offsets of the topic dead-letters"
    )
    parser.add_argument(
        "--limit", type=positive_int, default=20, metavar="N", help="list only the newest (default %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")


def run(arguments: argparse.Namespace) -> int:
    """List or resend the selected dead letters; returns the exit status: 1 when some could not be sent again."""
    settings = load_settings(arguments)
    topics = Topics(settings.topics.prefix)
    check_connection(settings.kafka)
    origin = settings.topics.prefix + arguments.topic if arguments.topic else None
    selected = [
        letter
        for letter in read_dead_letters(settings.kafka, topics, on_missing=settings.topics.on_missing_records)
        if (origin is None or letter.origin.topic == origin)
        and (not arguments.reason or arguments.reason in letter.reason)
        and (arguments.offsets is None or letter.offset in arguments.offsets)
    ]
    console = Console()
    if arguments.action == "list":
        _list(selected, arguments.limit, console)
        return 0
    return _resend(selected, settings, console, dry_run=arguments.dry_run)


def _list(letters: list[DeadLetter], limit: int, console: Console) -> None:
    table = Table("offset", "refused record", "written (UTC)", "by", "reason", "key", "value")
    for letter in letters[-limit:]:
        record = letter.origin
        table.add_row(
            str(letter.offset),
            escape(printable(f"{record.topic}/{record.partition}/{record.offset}")),
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.timestamp / 1000)),
            escape(printable(letter.refused_by)),
            escape(printable(letter.reason)),
            escape(_shorten(record.key)),
            escape(_shorten(record.value)),
        )
    console.print(table)
    console.print(f"{min(limit, len(letters))} of {len(letters)} dead letters")


def _resend(letters: list[DeadLetter], settings: Settings, console: Console, *, dry_run: bool) -> int:
    sender = ReliableProducer(settings.kafka)
    topics = Topics(settings.topics.prefix)
    sources = {topics.behaviors, topics.impressions, topics.clicks, topics.samples}
    sent: Counter[str] = Counter()
    skipped = 0
    for letter in letters:
        if letter.origin.topic not in sources:  # anybody may have written this header
            skipped += 1
            console.print(f"offset {letter.offset}: not from a topic that samstream reads: {escape(_origin(letter))}")
            continue
        if letter.cut:
            skipped += 1
            console.print(f"offset {letter.offset}: only its head was kept; the whole is at {_origin(letter)}")
            continue
        if not dry_run:
            origin = letter.origin
            sender.send(origin.topic, origin.value, key=origin.key, headers=list(origin.headers))
        sent[letter.origin.topic] += 1
    sender.flush()
    for topic, count in sorted(sent.items()):
        console.print(f"{topic}: {count} {'would be ' if dry_run else ''}sent again")
    if not sent:
        console.print("nothing to send")
    return 1 if skipped else 0


def _origin(letter: DeadLetter) -> str:
    record = letter.origin
    return printable(f"{record.topic}/{record.partition}, offset {record.offset}")


def _shorten(content: bytes | None) -> str:
    if content is None:
        return "null"
    text = printable(content[:_SHOWN_BYTES].decode(errors="backslashreplace"))
    return text + ("…" if len(content) > _SHOWN_BYTES else "")
