"""`samstream dead-letters`: what was refused and why, and how it is sent again once the cause is mended."""

import argparse
import time
from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream.kafka.clients import check_connection
from stream.kafka.dead_letters import DeadLetter, read_dead_letters
from stream.kafka.producer import ReliableProducer
from stream.runtime.logs import printable
from stream.schema.topics import Topics
from stream.settings import Settings

_SHOWN_BYTES = 80


def run_dead_letters(arguments: argparse.Namespace, settings: Settings) -> int:
    """List or resend the chosen dead letters; returns the exit status: 1 when some could not be sent again."""
    topics = Topics(settings.topics.prefix)
    check_connection(settings.kafka)
    origin = settings.topics.prefix + arguments.topic if arguments.topic else None
    chosen = [
        letter
        for letter in read_dead_letters(settings.kafka, topics)
        if (origin is None or letter.origin.topic == origin)
        and (not arguments.reason or arguments.reason in letter.reason)
        and (arguments.offsets is None or letter.offset in arguments.offsets)
    ]
    console = Console()
    if arguments.action == "list":
        _list(chosen, arguments.limit, console)
        return 0
    return _resend(chosen, settings, console, dry=arguments.dry_run)


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
            escape(_head(record.key)),
            escape(_head(record.value)),
        )
    console.print(table)
    console.print(f"{min(limit, len(letters))} of {len(letters)} dead letters")


def _resend(letters: list[DeadLetter], settings: Settings, console: Console, *, dry: bool) -> int:
    sender = ReliableProducer(settings.kafka)
    topics = Topics(settings.topics.prefix)
    origins = {topics.behaviors, topics.impressions, topics.clicks, topics.samples}
    sent: Counter[str] = Counter()
    left = 0
    for letter in letters:
        if letter.origin.topic not in origins:  # the header is anybody's word
            left += 1
            console.print(f"offset {letter.offset}: no topic whose records we refuse: {escape(_where(letter))}")
            continue
        if letter.cut:
            left += 1
            console.print(f"offset {letter.offset}: only its head was kept; the whole is at {_where(letter)}")
            continue
        if not dry:
            origin = letter.origin
            sender.send(origin.topic, origin.value, key=origin.key, headers=list(origin.headers))
        sent[letter.origin.topic] += 1
    sender.flush()
    for topic, count in sorted(sent.items()):
        console.print(f"{topic}: {count} {'would be ' if dry else ''}sent again")
    if not sent:
        console.print("nothing to send")
    return 1 if left else 0


def _where(letter: DeadLetter) -> str:
    record = letter.origin
    return printable(f"{record.topic}/{record.partition}, offset {record.offset}")


def _head(content: bytes | None) -> str:
    if content is None:
        return "null"
    text = printable(content[:_SHOWN_BYTES].decode(errors="backslashreplace"))
    return text + ("…" if len(content) > _SHOWN_BYTES else "")
