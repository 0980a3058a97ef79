"""`bench counting`: how much a trainer's learning slows while it counts behaviours for the statistics."""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from model.serialization.parts import Assembler
from model.serialization.update import Update
from model.spec import count_numbers, preset
from model.statistics.item_statistics import pack_numbers
from model.statistics.primary import STATISTICS
from state.behavior import action_key, behaviors, category_key, checksum, item_key
from stream.bench.harness.behavior_load import behaviors_at
from stream.bench.harness.examples import CATEGORIES, NOW, example
from stream.bench.harness.timing import Summary
from stream.errors import StreamError
from stream.kafka import topic_admin
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.local.broker import Broker, local_broker
from stream.local.system import Processes
from stream.report.findings import Findings, Target
from stream.report.plots.figure import INK, PALETTE, picture
from stream.schema.events import Behavior, Sample, SequenceName, encode_json, encode_packed
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from stream.schema.update_headers import read_update_headers
from stream.settings import load

RATE = 100_000
"""Behaviours a second."""
_PRESET = "sam"
_ITEMS = 10
_USERS = 40
_ROUNDS, _REQUESTS = 3, 5000
_PARTITIONS = 4
_SLOWER = 0.2
_KEEPS_UP = 0.95
"""Share of the behaviours that must be counted in time: a trainer that leaves them would learn faster."""
_WARM_UP = 0.2
"""Share of the samples before those that are timed."""
_DEADLINE_S = 300.0


@dataclass(frozen=True, slots=True)
class Point:
    """What a trainer had done when it sent an update: samples learned, behaviours counted."""

    seconds: float
    samples: int
    behaviors: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a trainer is given to learn.

    Attributes:
        behaviors: users with what they did before, encoded.
        samples: users with their partitions and samples, encoded.
        total: samples that the trainer learns of them.
    """

    behaviors: list[tuple[str, bytes]]
    samples: list[tuple[str, int, bytes]]
    total: int


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Have a trainer learn the same samples, in turns with behaviours that it counts and with some that it does not."""
    rounds, requests, rate, update_s = (1, 200, 5000, 0.1) if arguments.quick else (_ROUNDS, _REQUESTS, RATE, 0.5)
    given = work(requests)
    rates: dict[int, list[float]] = {0: [], rate: []}
    counted: dict[int, list[float]] = {0: [], rate: []}
    with (
        tempfile.TemporaryDirectory(prefix="samstream-bench-") as scratch,
        local_broker(arguments.broker, Path(scratch) / "broker") as broker,
    ):
        for number in range(rounds):
            for behaviors in rates:
                directory = Path(scratch) / f"round-{number}-{behaviors}"
                points = _learn(broker, directory, given, rate, update_s, counting=behaviors > 0)
                learned, events = rates_between(points, given.total)
                rates[behaviors].append(learned)
                counted[behaviors].append(events)
                console.print(f"round {number + 1}: {learned:,.0f} samples/s beside {events:,.0f} behaviours/s")
    slower = 1 - np.median(np.array(rates[rate]) / np.array(rates[0]))
    summaries = {behaviors: Summary.of(values) for behaviors, values in rates.items()}
    rows = [
        {
            "behaviours/s": round(float(np.median(counted[behaviors]))),
            "samples/s": summary.median,
            "least": summary.min,
            "most": summary.max,
        }
        for behaviors, summary in summaries.items()
    ]
    notes = [
        f"one trainer, `{_PRESET}`, {_USERS} users with histories of 1000, {_ITEMS} items a sample",
        f"the producer of {rate:,} behaviours a second and the broker run on the same machine, always: where none are"
        " counted, they go to a topic that the trainer does not read",
    ]
    targets = [
        Target(f"slower beside {rate:,} behaviours/s", 100 * float(slower), "%", 100 * _SLOWER),
        Target("counted in time", rows[1]["behaviours/s"], "behaviours/s", _KEEPS_UP * rate, "at least"),
    ]
    return Findings({"results": rows}, lambda: _picture(summaries, arguments.broker), targets, notes)


def rates_between(points: Sequence[Point], total: int) -> tuple[float, float]:
    """Return samples learned and behaviours counted a second, after the warm-up and while there was more to learn.

    Raises:
        StreamError: when there are not two points then.
    """
    timed = [point for point in points if _WARM_UP * total <= point.samples < total]
    if len(timed) < 2:
        raise StreamError(f"{total} samples are too few: they were learned within two updates")
    first, last = timed[0], timed[-1]
    took = last.seconds - first.seconds
    return (last.samples - first.samples) / took, (last.behaviors - first.behaviors) / took


def _learn(broker: Broker, directory: Path, given: Work, rate: int, update_s: float, *, counting: bool) -> list[Point]:
    """Have a new trainer learn all samples; returns how it went on, a point every `update_s` seconds."""
    directory.mkdir()
    settings = load(
        None,
        overrides=[
            f"kafka.bootstrap.servers={broker.bootstrap}",
            f"topics.prefix=counting-{time.time_ns():x}-",
            f"topics.partitions={_PARTITIONS}",
            f"trainer.directory={directory / 'checkpoints'}",
            f"trainer.update_interval_s={update_s}",
            f"arms=[{{name='{_PRESET}', preset='{_PRESET}'}}]",
        ],
    )
    topics = Topics(settings.topics.prefix)
    topic_admin.ensure(settings.kafka, topics, partitions=_PARTITIONS, replication=1)
    sender = ReliableProducer(settings.kafka)
    for user, behavior in given.behaviors:
        sender.send(topics.behaviors, behavior, key=user)
    sender.flush()
    written = topics.behaviors if counting else topics.impressions
    updates = TopicReader(settings.kafka, [topics.model_updates])
    behaviors = TopicReader(settings.kafka, [written])
    try:
        with Processes(directory, settings) as processes:
            processes.start("trainer", "trainer")
            # The behaviours come to a trainer that reads already: it has none to catch up with.
            _await_record(updates, processes, "update")
            with behaviors_at(rate, broker.bootstrap, written):
                _await_record(behaviors, processes, "behaviour")
                behaviors.close()
                for user, partition, sample in given.samples:
                    sender.send(topics.samples, sample, key=user, partition=partition)
                sender.flush()
                return _points(updates, processes, given.total, STATISTICS if counting else _PRESET)
    finally:
        updates.close()
        behaviors.close()


def _await_record(reader: TopicReader, processes: Processes, what: str) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not reader.read(0.1):
        processes.check()
        if time.monotonic() > deadline:
            raise StreamError(f"no {what} was written within {_DEADLINE_S:.0f} s")


def _points(updates: TopicReader, processes: Processes, total: int, arm: str) -> list[Point]:
    """Return a point for each update of an arm, by the time at which it was sent, until all samples are learned."""
    assembler = Assembler([arm])
    points: list[Point] = []
    learned = 0
    deadline = time.monotonic() + _DEADLINE_S
    while learned < total:
        processes.check()
        if time.monotonic() > deadline:
            raise StreamError(f"the trainer has learned {learned} of {total} samples within {_DEADLINE_S:.0f} s")
        for message in updates.read(0.05):
            if announced := read_update_headers(message.headers()):
                learned = announced.samples
            if update := assembler.add(message.value() or b""):
                points.append(Point(message.timestamp()[1] / 1000, learned, _counted(update)))
    return points


def _counted(update: Update) -> int:
    """Return how many behaviours the trainer has counted: all of them together have a row, which is the greatest."""
    if update.arm != STATISTICS or not len(counts := update.tensors["category/values"]):
        return 0
    return round(float(np.expm1(counts[:, -1].astype(np.float64).max())))


def work(requests: int) -> Work:
    """Return what a trainer is given: the behaviours of some users, and samples that name their sequences."""
    rng = np.random.default_rng(3)
    spec = preset(_PRESET)
    written = Counter[int]()
    named: list[tuple[str, int, int]] = []
    events: list[tuple[str, bytes]] = []
    for user in map("reader-{}".format, range(_USERS)):
        history = [
            Behavior(user, f"item-{item}", NOW - 1000 * (spec.length - place), f"category-{item % CATEGORIES}")
            for place, item in enumerate(rng.integers(0, 100_000, spec.length).tolist())
        ]
        events += [(user, encode_json(event)) for event in history]
        rows = [
            (item_key(each.item), category_key(each.category), action_key(each.action), each.ts) for each in history
        ]
        partition = partition_of(user.encode(), _PARTITIONS)
        written[partition] += len(history)
        named.append((user, partition, checksum(behaviors(rows))))
    samples: list[tuple[str, int, bytes]] = []
    learned = 0
    for number in range(requests):
        asked = example(rng, 1, _ITEMS, labelled=True)
        assert asked.labels is not None
        # An item that a request was given twice is a repeat: it is learned once.
        learned += len(np.unique(asked.items))
        user, partition, of = named[number % _USERS]
        sample = Sample(
            request_id=str(number),
            user=user,
            arm=_PRESET,
            ts=asked.ts,
            epoch=0,
            version=0,
            clicked_at=0,
            sequence=SequenceName(spec.length, written[partition], of),
            items=asked.items.astype("<u8").tobytes(),
            categories=asked.categories.astype("<u4").tobytes(),
            positions=np.arange(_ITEMS, dtype="<u2").tobytes(),
            labels=asked.labels.astype("<u1").tobytes(),
            numbers=pack_numbers(rng.normal(0, 2, (_ITEMS, count_numbers(spec.statistics))).astype(np.float32)),
        )
        samples.append((user, partition, encode_packed(sample)))
    return Work(events, samples, learned)


def _picture(summaries: dict[int, Summary], broker: str) -> bytes:
    alone, beside = summaries.values()
    title = f"{beside.median / alone.median:.0%} of the learning beside {max(summaries):,} behaviours a second"
    subtitle = f"samples a second of one trainer; broker: {broker}"
    with picture(title, subtitle, height=2.8) as (axes, save):
        for place, ((behaviors, summary), colour) in enumerate(zip(summaries.items(), PALETTE, strict=False)):
            axes.barh(place, summary.median, color=colour, height=0.45)
            label = f"beside {behaviors:,} behaviours a second" if behaviors else "beside as many that are not counted"
            axes.text(0, place - 0.3, label, va="bottom", color=INK)
            axes.plot([summary.min, summary.max], [place, place], color=INK, linewidth=1.2)
            axes.text(summary.max, place, f"  {summary.median:,.0f}", va="center", fontweight="bold", color=colour)
        axes.set_yticks([])
        axes.set_ylim(1.4, -0.75)
        axes.grid(visible=False)
        return save()
