"""`bench ingest`: behaviours from Kafka to committed sequences, compared with Faust and Quix Streams."""

import argparse
import json
import math
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from state.behavior import BEHAVIOR
from state.partition import Partition
from stream.bench.harness.probe import read_metric
from stream.bench.harness.process_cpu import cpu_seconds
from stream.bench.harness.timing import Summary
from stream.client import Client
from stream.errors import StreamError
from stream.kafka import topic_admin
from stream.kafka.offsets import GroupLag
from stream.local.broker import Broker, local_broker
from stream.local.ports import free_port
from stream.local.system import Processes
from stream.report.findings import Findings, Target
from stream.report.plots.figure import INK, PALETTE, picture
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from stream.settings import Settings, load

PARTITIONS = 4
USERS, ITEMS, CATEGORIES = 20_000, 50_000, 100
_DEADLINE_S = 300.0
_FOLLOWERS_SAY_S = 1.1
"""Within it the lag that a copy or the counter says is of the last commit."""
_ALONE, _WHOLE = "samstream", "samstream, two workers"
_PEERS = {"Faust": "faust_rolling", "Quix Streams": "quix_rolling"}


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Measure records a second of one worker process, and in turn of the other systems that are installed."""
    rounds = 1 if arguments.quick else 3
    users = 200 if arguments.quick else USERS
    most = 200_000 if arguments.quick else 2_000_000
    records = {_ALONE: most, _WHOLE: most, "Faust": 10_000, "Quix Streams": 60_000}
    rates: dict[str, list[float]] = {name: [] for name in records}
    cpu_us: dict[str, list[float]] = {_ALONE: [], _WHOLE: []}
    notes = [
        f"{_WHOLE}: a trainer counts the same behaviours and sends the workers their statistics; two workers have half"
        " of the partitions each, and keep copies of the other's (worker.standbys=1). So each folds every behaviour"
        " once, as its own or for a copy; all of them share the cores. The clock stops when all copies and the counter"
        " have everything, too; they say so once a second, so that it may stop a second late",
        "CPU: of one worker, user and system, all threads, between the same two commits",
    ]
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
            for name in (_ALONE, _WHOLE):
                folded, cpu = _worker_rate(settings, names, directory, full_state, most, number, whole=name == _WHOLE)
                rates[name].append(folded)
                cpu_us[name].append(cpu)
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
    cpu_summaries = {name: Summary.of(values) for name, values in cpu_us.items()}
    return _findings(summaries, cpu_summaries, notes, users, arguments.broker)


def _findings(
    summaries: Mapping[str, Summary | None], cpu: Mapping[str, Summary], notes: list[str], users: int, broker: str
) -> Findings:
    own, whole = summaries[_ALONE], summaries[_WHOLE]
    assert own is not None
    assert whole is not None

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
                    "CPU, µs each": cpu[name].median if name in cpu else None,
                    "samstream is faster by": ratio(name) if name in _PEERS else None,
                }
                for name, summary in summaries.items()
            ]
        },
        targets=[
            Target("one worker", own.median, "behaviours/s", 150_000, "at least"),
            Target("two workers, with statistics and copies", whole.median, "behaviours/s", 150_000, "at least"),
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


def _worker_rate(
    settings: Settings, names: Topics, directory: Path, full_state: Path, records: int, number: int, *, whole: bool
) -> tuple[float, float]:
    """Return records a second, and microseconds of CPU a record of one worker, from the first commits to the last.

    Args:
        settings: of the system.
        names: its topics.
        directory: of the round.
        full_state: the state that workers begin with.
        records: in the topic.
        number: of the round.
        whole: whether a trainer counts, and a second worker shares the partitions and keeps copies.
    """
    group = f"{settings.topics.prefix}{number}{'-whole' if whole else ''}"
    workers = [directory / f"{group}-{place}" for place in range(1 + whole)]
    for each in workers:
        shutil.copytree(full_state, each / "state")
    lag = GroupLag(settings.kafka, group)
    followers: dict[str, str] = {}
    with ExitStack() as running:
        if whole:
            followers[served := f"127.0.0.1:{free_port()}"] = "samstream_behaviors_lag"
            trainer = directory / f"{group}-trainer"
            section = msgspec.structs.replace(settings.trainer, directory=str(trainer / "checkpoints"), metrics=served)
            _begin(running, trainer, "trainer", msgspec.structs.replace(settings, trainer=section))
        children = []
        for each in workers:
            served = f"127.0.0.1:{free_port()}"
            if whole:
                followers[served] = "samstream_standby_lag_records"
            own = msgspec.structs.replace(
                settings,
                state=msgspec.structs.replace(settings.state, directory=str(each / "state")),
                worker=msgspec.structs.replace(settings.worker, group=group, standbys=int(whole), metrics=served),
            )
            children.append(_begin(running, each, "worker", own))
        rate = _watch(lag, names.behaviors, records, children, followers)
    lag.close()
    for each in workers:
        shutil.rmtree(each)
    return rate


def _begin(running: ExitStack, directory: Path, job: str, settings: Settings) -> tuple[Processes, int]:
    """Start a job until the stack ends; returns its processes and its process id."""
    processes = running.enter_context(Processes(directory, settings))
    return processes, processes.start(job, job).pid


def _watch(
    lag: GroupLag,
    topic: str,
    records: int,
    children: Sequence[tuple[Processes, int]],
    followers: Mapping[str, str],
) -> tuple[float, float]:
    """Wait until everything is folded; returns records a second, and microseconds of CPU a record of the first child.

    Args:
        lag: of the workers' group.
        topic: `behaviors`.
        records: in the topic.
        children: the workers.
        followers: where metrics are served → the one that is 0 when this follower has everything as well.
    """
    first: tuple[float, float, int] | None = None
    whole: dict[int, int] = {}
    spent, done_at = 0.0, math.inf
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        for processes, _ in children:
            processes.check()
        behind, now, cpu = lag.by_partition(topic, PARTITIONS), time.monotonic(), cpu_seconds(children[0][1])
        remaining = sum(behind.values())
        whole = whole or behind
        # Once all partitions are at work, as several workers do not begin at the same time.
        if first is None and all(behind[number] < whole[number] for number in whole):
            first = now, cpu, remaining
        if remaining == 0 and first is not None:
            if not first[2]:
                raise StreamError(f"{records} records are too few: they were all in one commit")
            if math.isinf(done_at):
                spent, done_at = cpu - first[1], now
            if not followers or (now >= done_at + _FOLLOWERS_SAY_S and _have_all(followers)):
                return first[2] / (now - first[0]), 1e6 * spent / first[2]
        if now > deadline:
            raise StreamError(f"the workers have not read {remaining} records after {_DEADLINE_S:.0f} s")
        time.sleep(0.02)


def _have_all(followers: Mapping[str, str]) -> bool:
    return all(read_metric(served, metric) == 0 for served, metric in followers.items())


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
    subtitle = f"behaviours from Kafka into the state of {users:,} users with 1000 each; broker: {broker}"
    own, best = (
        measured[_ALONE].median,
        max((summary.median for name, summary in measured.items() if name in _PEERS), default=math.nan),
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
