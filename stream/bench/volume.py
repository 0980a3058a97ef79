"""`bench volume`: the bytes that an impression with ten shown items and three clicks takes in each topic."""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from confluent_kafka import Message
from rich.console import Console

from stream.bench.harness.load import SLOTS, Population, loaded_system
from stream.client import Client
from stream.errors import StreamError
from stream.kafka.reader import TopicReader
from stream.local.system import System
from stream.report.findings import Findings, Target
from stream.report.plots.figure import INK, PALETTE, picture
from stream.schema.events import Candidate, RequestKey, Score, decode_sample
from stream.schema.update_headers import read_update_headers

_CLICKS = 3
_CLICK_EVERY_S = 0.05
"""Longer than a turn of the worker: each click is a record of its own, as with real users."""
_ITEMS, _CATEGORIES = 3000, 60
_MOST_BYTES = 1024
_DEADLINE_S = 120.0


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Have each user ask once and click three times, and count what all topics hold then."""
    population = Population(users=20, history=60) if arguments.quick else Population(users=200)
    console.print(f"starting a system on {arguments.broker}, {population.users} users …")
    with loaded_system(arguments.broker, population) as (system, _):
        names = [topic.name for topic in system.topics]
        with closing(TopicReader(system.settings.kafka, names)) as reader:
            began = time.monotonic()
            requests = _act(system, population)
            messages = _messages(reader, system, len(requests))
            seconds = time.monotonic() - began
    impressions = len(requests)
    prefix = system.settings.topics.prefix
    rows = topic_rows(messages, [name.removeprefix(prefix) for name in names], prefix, impressions)
    samples = next(float(row["bytes an impression"]) for row in rows if row["topic"] == "samples")
    notes = [
        f"{impressions} impressions of {population.candidates} candidates, {SLOTS} shown, {_CLICKS} clicked one after"
        f" the other; histories of {population.history}; the default arm",
        "values, keys and headers as they were sent: before compression, and without what Kafka adds to a record",
        f"`model-updates` grows with time, not with impressions: these are those of {seconds:.0f} s",
    ]
    targets = [Target("`samples`", samples, "bytes an impression", _MOST_BYTES)]
    return Findings({"results": rows}, _picture(rows), targets, notes)


def topic_rows(
    messages: Sequence[Message], topics: Sequence[str], prefix: str, impressions: int
) -> list[dict[str, str | float]]:
    """Return a row a topic: records and bytes for each impression.

    Args:
        messages: of all topics.
        topics: names of all topics, without the prefix.
        prefix: of the names that messages have.
        impressions: how many there were.
    """
    records: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for message in messages:
        topic = (message.topic() or "").removeprefix(prefix)
        records[topic] += 1
        size[topic] += len(message.value() or b"") + len(message.key() or b"")
        size[topic] += sum(len(name) + len(value or b"") for name, value in dict(message.headers() or ()).items())
    return [
        {
            "topic": topic,
            "records an impression": records[topic] / impressions,
            "bytes an impression": size[topic] / impressions,
        }
        for topic in topics
    ]


def _act(system: System, population: Population) -> set[RequestKey]:
    """Let each user ask once, and click on the first items of the answer, one after the other."""
    items = [Candidate(f"item-{item}", f"category-{item % _CATEGORIES}") for item in range(_ITEMS)]
    answered: dict[RequestKey, Score] = {}
    with Client(system.settings.kafka, system.topics) as client:
        for user in range(population.users):
            offered = [items[(user + 7 * place) % _ITEMS] for place in range(population.candidates)]
            client.impression(f"user-{user}", offered, SLOTS)
        deadline = time.monotonic() + _DEADLINE_S
        while len(answered) < population.users:
            system.check()
            answered |= {score.request: score for score, _ in client.poll_scores(0.1)}
            if time.monotonic() > deadline:
                raise StreamError(f"{len(answered)} of {population.users} requests were answered")
        for place in range(_CLICKS):
            for request, score in answered.items():
                item = score.items[score.order[place]]
                client.click(request, item, category=f"category-{int(item.removeprefix('item-')) % _CATEGORIES}")
            client.flush()
            time.sleep(_CLICK_EVERY_S)
    return set(answered)


def _messages(reader: TopicReader, system: System, impressions: int) -> list[Message]:
    """Return what all topics have got, once every shown item has come out as a sample and was learned."""
    messages: list[Message] = []
    wanted = SLOTS * impressions
    sampled = learned = 0
    deadline = time.monotonic() + _DEADLINE_S
    while sampled < wanted or learned < wanted:
        system.check()
        for message in reader.read(0.2):
            messages.append(message)
            if message.topic() == system.topics.samples:
                sampled += len(decode_sample(message.value() or b"").labels)
            elif announced := read_update_headers(message.headers()):
                learned = max(learned, announced.samples)
        if time.monotonic() > deadline:
            raise StreamError(f"of {wanted} shown items, {sampled} have come out as samples and {learned} were learned")
    return messages


def _picture(rows: Sequence[Mapping[str, str | float]]) -> Callable[[], bytes]:
    def draw() -> bytes:
        shown = [row for row in rows if row["topic"] != "model-updates" and row["bytes an impression"]]
        title = "What an impression takes in each topic"
        with picture(title, "bytes, before compression; ten items shown, three clicked", height=2.8) as (axes, save):
            for place, row in enumerate(shown):
                size = float(row["bytes an impression"])
                axes.barh(place, size, color=PALETTE[0], height=0.6)
                axes.text(size, place, f"  {size:,.0f}", va="center", color=INK)
            axes.set_yticks(range(len(shown)), [str(row["topic"]) for row in shown])
            axes.invert_yaxis()
            axes.grid(visible=False)
            return save()

    return draw
