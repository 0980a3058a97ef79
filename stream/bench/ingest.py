"""`bench ingest`: behaviours from Kafka to committed sequences, compared with Faust and Quix Streams."""

import argparse
import json
import math
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from state.behavior import BEHAVIOR
from state.partition import Partition
from stream.bench.harness.timing import Summary
from stream.client import Client
from stream.errors import StreamError
from stream.kafka import topic_admin
from stream.kafka.offsets import GroupLag
from stream.local.broker import Broker, local_broker
from stream.local.system import Processes
from stream.report.findings import Findings, Target
from stream.report.plots.figure import INK, PALETTE, picture
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from stream.settings import Settings, load

PARTITIONS = 4
USERS, ITEMS, CATEGORIES = 20_000, 50_000, 100
_DEADLINE_S = 300.0
_PEERS = {"Faust": "faust_rolling", "Quix Streams": "quix_rolling"}


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Measure records a second of one worker process, and in turn of the other systems that are installed."""
    rounds = 1 if arguments.quick else 3
    users = 200 if arguments.quick else USERS
    records = {"samstream": 200_000 if arguments.quick else 1_000_000, "Faust": 10_000, "Quix Streams": 60_000}
    rates: dict[str, list[float]] = {name: [] for name in records}
    notes = []
    with (
        tempfile.TemporaryDirectory(prefix="samstream-bench-") as scratch,
        local_broker(arguments.broker, Path(scratch) / "broker") as broker,
    ):
        full_state = Path(scratch) / "full"
        settings = _settings(broker, f"ingest-{time.time_ns():x}-")
        names = Topics(settings.topics.prefix)
        topic_admin.ensure(settings.kafka, names, partitions=PARTITIONS, replication=1)
        _fill_states(full_state, settings, names, users, console)
        _produce(settings, names, users, max(records.values()), console)
        for number in range(rounds):
            console.print(f"round {number + 1} of {rounds}")
            directory = Path(scratch) / f"round-{number}"
            shutil.copytree(full_state, directory / "state")
            rates["samstream"].append(_worker_rate(settings, names, directory, records["samstream"], number))
            for name in _PEERS:
                rate = _peer_rate(
                    arguments.peer_python, name, broker, names, records[name], directory / name.split()[0], number
                )
                if isinstance(rate, str):
                    if number == 0:
                        notes.append(f"{name}: {rate}")
                else:
                    rates[name].append(rate)
            shutil.rmtree(directory)
    summaries = {name: Summary.of(values) if values else None for name, values in rates.items()}
    return _findings(summaries, notes, users, arguments.broker)


def _findings(summaries: Mapping[str, Summary | None], notes: list[str], users: int, broker: str) -> Findings:
    own = summaries["samstream"]
    assert own is not None

    def ratio(name: str) -> float | None:
        peer = summaries[name]
        return own.median / peer.median if peer else None

    return Findings(
        tables={
            "results": [
                {
                    "system": name,
                    "records/s": summary.median if summary else None,
                    "least": summary.min if summary else None,
                    "most": summary.max if summary else None,
                    "samstream is faster by": None if name == "samstream" else ratio(name),
                }
                for name, summary in summaries.items()
            ]
        },
        targets=[
            Target("one worker", own.median, "behaviours/s", 100_000, "at least"),
            Target("against Faust", ratio("Faust"), "times", 20, "at least"),
            Target("against Quix Streams", ratio("Quix Streams"), "times", 3, "at least"),
        ],
        picture=lambda: _picture(summaries, users, broker),
        notes=notes,
    )


def _settings(broker: Broker, prefix: str) -> Settings:
    return load(
        None,
        overrides=[
            f"kafka.bootstrap.servers={broker.bootstrap}",
            f"topics.prefix={prefix}",
            f"topics.partitions={PARTITIONS}",
            "worker.model_wait_s=0",
        ],
    )


def _fill_states(directory: Path, settings: Settings, names: Topics, users: int, console: Console) -> None:
    """Write states in which every user has a full history, and no record of the topics is read yet."""
    length, slack = settings.state.length, settings.state.slack
    rng = np.random.default_rng(0)
    history = np.zeros(length + slack, BEHAVIOR)
    history["ts"] = 1_700_000_000_000 + np.arange(len(history)) * 60_000
    states = {
        number: Partition.open(directory / f"partition-{number:05}", length=length, slack=slack, cache_bytes=1 << 20)
        for number in range(PARTITIONS)
    }
    start = dict.fromkeys((names.behaviors, names.impressions, names.clicks, names.scores), 0)
    for number in track(range(users), "full histories", console=console, transient=True):
        user = f"user-{number}"
        history["item"] = rng.integers(1, 2**63, len(history))
        states[partition_of(user.encode(), PARTITIONS)].sequences.append(user, history)
        if number % 500 == 499:
            for state in states.values():
                state.commit(start)
    for state in states.values():
        state.commit(start)
        state.close()


def _produce(settings: Settings, names: Topics, users: int, records: int, console: Console) -> None:
    rng = np.random.default_rng(1)
    who = rng.integers(0, users, records)
    what = np.minimum(rng.pareto(1.1, records) * 20, ITEMS - 1).astype(int)
    now = time.time_ns() // 1_000_000 - records
    with Client(settings.kafka, names) as client:
        for index in track(range(records), "behaviours to Kafka", console=console, transient=True):
            item = int(what[index])
            client.behavior(f"user-{who[index]}", f"item-{item}", now + index, category=f"category-{item % CATEGORIES}")
        client.flush()


def _worker_rate(settings: Settings, names: Topics, directory: Path, records: int, number: int) -> float:
    """Return the records a second between the first and the last commit."""
    group = f"{settings.topics.prefix}{number}"
    settings = msgspec.structs.replace(
        settings,
        state=msgspec.structs.replace(settings.state, directory=str(directory / "state")),
        worker=msgspec.structs.replace(settings.worker, group=group),
    )
    lag = GroupLag(settings.kafka, group)
    first: tuple[float, int] | None = None
    deadline = time.monotonic() + _DEADLINE_S
    with Processes(directory, settings) as processes:
        processes.start("worker", "worker")
        while True:
            processes.check()
            remaining, now = lag.of(names.behaviors, PARTITIONS), time.monotonic()
            if first is None and remaining < records:
                first = now, remaining
            if remaining == 0 and first is not None:
                lag.close()
                if not first[1]:
                    raise StreamError(f"{records} records are too few: they were all in one commit")
                return first[1] / (now - first[0])
            if now > deadline:
                raise StreamError(f"the worker has not read {remaining} records after {_DEADLINE_S:.0f} s")
            time.sleep(0.02)


def _peer_rate(
    python: str, name: str, broker: Broker, names: Topics, records: int, directory: Path, number: int
) -> float | str:
    """Return the records a second of another system, without the first tenth; or the reason why there is none."""
    script = Path(__file__).with_name("peers") / f"{_PEERS[name]}.py"
    group = f"{names.behaviors}-{name.split()[0].lower()}-{number}"
    directory.mkdir(parents=True)
    try:
        done = subprocess.run(
            [python, str(script), broker.bootstrap, names.behaviors, str(PARTITIONS), group, str(records), "."],
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            cwd=directory,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not take {records} records within {_DEADLINE_S:.0f} s"
    if "ModuleNotFoundError" in done.stderr:
        return f"not installed for {python}: {last_error(done.stderr)}; name one that has it with --peer-python"
    try:
        return 0.9 * records / float(json.loads(done.stdout.splitlines()[-1])["seconds"])
    except (IndexError, ValueError, KeyError):
        return f"ended with {done.returncode}: {last_error(done.stderr)}"


def last_error(stderr: str) -> str:
    r"""Return the last line that names an error, else the last line: Faust's last one says only that it crashed.

    >>> last_error("NameError: no x\n[CRITICAL] We experienced a crash!")
    'NameError: no x'
    """
    lines = stderr.strip().splitlines() or [""]
    return next((line for line in reversed(lines) if re.match(r"[\w.]*Error\b", line)), lines[-1]).strip()


def _picture(summaries: Mapping[str, Summary | None], users: int, broker: str) -> bytes:
    measured = {name: summary for name, summary in summaries.items() if summary}
    subtitle = f"behaviours from Kafka into the state of {users:,} users with 1000 each; one process; broker: {broker}"
    own, best = (
        measured["samstream"].median,
        max((summary.median for name, summary in measured.items() if name != "samstream"), default=math.nan),
    )
    title = f"{own:,.0f} behaviours a second" + (f", {own / best:.0f} times the next" if best == best else "")
    with picture(title, subtitle, height=3.4) as (axes, save):
        for place, ((name, summary), colour) in enumerate(zip(measured.items(), PALETTE, strict=False)):
            axes.barh(place, summary.median, color=colour, height=0.45)
            axes.text(0, place - 0.3, name, va="bottom", color=INK)
            axes.plot([summary.min, summary.max], [place, place], color=INK, linewidth=1.2)
            axes.text(summary.max, place, f"  {summary.median:,.0f}", va="center", fontweight="bold", color=colour)
        axes.set_yticks([])
        axes.set_ylim(len(measured) - 0.6, -0.75)
        axes.grid(visible=False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        return save()
