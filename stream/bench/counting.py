"""`bench counting`: how much a trainer's learning slows while it counts behaviours for the statistics."""

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from rich.console import Console

from model.spec import count_numbers, preset
from model.statistics.item_statistics import pack_numbers
from stream.bench.harness.behavior_load import behaviors_at
from stream.bench.harness.examples import example
from stream.bench.harness.timing import Summary
from stream.errors import StreamError
from stream.kafka import topic_admin
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.local.broker import Broker, local_broker
from stream.local.system import Processes
from stream.report.findings import Findings, Target
from stream.report.plots.figure import INK, PALETTE, picture
from stream.schema.events import Sample, encode_packed
from stream.schema.topics import Topics
from stream.schema.update_headers import UpdateHeaders, read_update_headers
from stream.settings import Settings, load

RATE = 100_000
"""Behaviours a second."""
_PRESET = "sam"
_ITEMS = 10
_ROUNDS, _REQUESTS = 3, 3000
_PARTITIONS = 4
_SLOWER = 0.2
_WARM_UP = 0.2
"""Share of the samples before those that are timed."""
_DEADLINE_S = 300.0


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Have a trainer learn the same samples, in turns with and without behaviours to count."""
    rounds, requests, rate = (1, 1000, 5000) if arguments.quick else (_ROUNDS, _REQUESTS, RATE)
    rates: dict[int, list[float]] = {0: [], rate: []}
    counted: dict[int, list[float]] = {0: [], rate: []}
    with (
        tempfile.TemporaryDirectory(prefix="samstream-bench-") as scratch,
        local_broker(arguments.broker, Path(scratch) / "broker") as broker,
    ):
        for number in range(rounds):
            for behaviors in rates:
                directory = Path(scratch) / f"round-{number}-{behaviors}"
                learned, events = _learning_rate(broker, directory, requests, behaviors)
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
        f"one trainer, `{_PRESET}`, histories of 1000, {_ITEMS} items a sample; the producer of the behaviours and the"
        " broker run on the same machine; behaviours are those counted",
    ]
    target = Target(f"slower beside {rate:,} behaviours/s", 100 * float(slower), "%", 100 * _SLOWER)
    return Findings({"results": rows}, lambda: _picture(summaries, arguments.broker), [target], notes)


def _learning_rate(broker: Broker, directory: Path, requests: int, behaviors: int) -> tuple[float, float]:
    """Return the samples that a trainer learns, and the behaviours that it counts, a second."""
    directory.mkdir()
    settings = load(
        None,
        overrides=[
            f"kafka.bootstrap.servers={broker.bootstrap}",
            f"topics.prefix=counting-{time.time_ns():x}-",
            f"topics.partitions={_PARTITIONS}",
            f"trainer.directory={directory / 'checkpoints'}",
            f"arms=[{{name='{_PRESET}', preset='{_PRESET}'}}]",
        ],
    )
    topics = Topics(settings.topics.prefix)
    topic_admin.ensure(settings.kafka, topics, partitions=_PARTITIONS, replication=1)
    total = _ITEMS * requests
    updates = TopicReader(settings.kafka, [topics.model_updates])
    producing = behaviors_at(behaviors, broker.bootstrap, topics.behaviors) if behaviors else nullcontext()
    try:
        with producing, Processes(directory, settings) as processes:
            if behaviors:
                _await_counting(settings, topics)
            processes.start("trainer", "trainer")
            _produce_samples(settings, topics, requests)
            return _timed(settings, topics, updates, processes, total)
    finally:
        updates.close()


def _await_counting(settings: Settings, topics: Topics) -> None:
    """Wait until behaviours come."""
    reader = TopicReader(settings.kafka, [topics.behaviors])
    deadline = time.monotonic() + _DEADLINE_S
    while not reader.read(0.1):
        if time.monotonic() > deadline:
            raise StreamError("no behaviours were written")
    reader.close()


def _timed(
    settings: Settings, topics: Topics, updates: TopicReader, processes: Processes, total: int
) -> tuple[float, float]:
    """Return samples and behaviours a second from the warm-up's end until the last sample is learned."""
    first: tuple[float, int, int] | None = None
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        processes.check()
        announced = [read_update_headers(message.headers()) for message in updates.read(0.05)]
        learned = max((each.samples for each in announced if isinstance(each, UpdateHeaders)), default=0)
        if first is None and learned >= _WARM_UP * total:
            if learned >= total:
                raise StreamError(f"{total} samples are too few: they were all in one update")
            first = time.monotonic(), learned, _written(settings, topics)
        if first is not None and learned >= total:
            took = time.monotonic() - first[0]
            return (learned - first[1]) / took, (_written(settings, topics) - first[2]) / took
    raise StreamError(f"the trainer has not learned {total} samples within {_DEADLINE_S:.0f} s")


def _written(settings: Settings, topics: Topics) -> int:
    """Return how many behaviours there are."""
    reader = TopicReader(settings.kafka, [topics.behaviors])
    written = sum(reader.positions.values())
    reader.close()
    return written


def _produce_samples(settings: Settings, topics: Topics, requests: int) -> None:
    rng = np.random.default_rng(3)
    width = count_numbers(preset(_PRESET).statistics)
    sender = ReliableProducer(settings.kafka)
    for number in range(requests):
        asked = example(rng, preset(_PRESET).length, _ITEMS, labelled=True)
        assert asked.labels is not None
        sample = Sample(
            request_id=str(number),
            user=f"user-{number}",
            arm=_PRESET,
            ts=asked.ts,
            epoch=0,
            version=0,
            clicked_at=0,
            sequence=asked.sequence.tobytes(),
            items=asked.items.astype("<u8").tobytes(),
            categories=asked.categories.astype("<u4").tobytes(),
            positions=np.arange(_ITEMS, dtype="<u2").tobytes(),
            probabilities=np.full(_ITEMS, 0.2, "<f4").tobytes(),
            labels=asked.labels.astype("<u1").tobytes(),
            numbers=pack_numbers(rng.normal(0, 2, (_ITEMS, width)).astype(np.float32)),
        )
        sender.send(topics.samples, encode_packed(sample), key=sample.user, partition=number % _PARTITIONS)
    sender.flush()


def _picture(summaries: dict[int, Summary], broker: str) -> bytes:
    alone, beside = summaries.values()
    title = f"{beside.median / alone.median:.0%} of the learning beside {max(summaries):,} behaviours a second"
    subtitle = f"samples a second of one trainer; broker: {broker}"
    with picture(title, subtitle, height=2.8) as (axes, save):
        for place, ((behaviors, summary), colour) in enumerate(zip(summaries.items(), PALETTE, strict=False)):
            axes.barh(place, summary.median, color=colour, height=0.45)
            label = f"beside {behaviors:,} behaviours a second" if behaviors else "alone"
            axes.text(0, place - 0.3, label, va="bottom", color=INK)
            axes.plot([summary.min, summary.max], [place, place], color=INK, linewidth=1.2)
            axes.text(summary.max, place, f"  {summary.median:,.0f}", va="center", fontweight="bold", color=colour)
        axes.set_yticks([])
        axes.set_ylim(1.4, -0.75)
        axes.grid(visible=False)
        return save()
