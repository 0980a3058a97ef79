"""`bench takeover`: from kill -9 of a worker to the first answer of the one that takes its partition over."""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from state.snapshots import Snapshots
from stream.bench.harness.full_state import add_full_histories, copy_state
from stream.bench.harness.timing import Summary
from stream.client import Client
from stream.errors import StreamError
from stream.kafka import topic_admin
from stream.local.broker import Broker, local_broker
from stream.local.system import Processes
from stream.report.findings import Findings, Target
from stream.report.plots.figure import INK, PALETTE, picture
from stream.schema.events import Candidate, RequestKey
from stream.schema.topics import Topics
from stream.settings import Settings, load

USERS, LOG_RECORDS = 100_000, 2_000_000
_CASES = ("standby copy", "snapshot", "log")
_SESSION_S = 10.0
_STANDBY_OVER_S = 5.0
_ASK_INTERVAL_S = 0.05
_DEADLINE_S = 600.0
_CANDIDATES = [Candidate(f"item-{number}", "category") for number in range(50)]


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Kill the owner of a partition in each round and each case; the other worker has no state of its own.

    Raises:
        StreamError: with a broker that keeps the partitions of a killed member.
    """
    users, records, rounds = (200, 20_000, 1) if arguments.quick else (USERS, LOG_RECORDS, 3)
    seconds: dict[str, list[float]] = {case: [] for case in _CASES}
    with (
        tempfile.TemporaryDirectory(prefix="samstream-bench-") as scratch,
        local_broker(arguments.broker, Path(scratch) / "broker") as broker,
    ):
        if broker.engine is not None and not broker.durable:
            raise StreamError(
                "the embedded broker keeps the partitions of a member that was killed: use --broker kafka"
            )
        full = Path(scratch) / "full"
        size = add_full_histories(full, 0, users, console)
        for number in range(rounds):
            for case in _CASES:
                directory = Path(scratch) / f"{case.split()[0]}-{number}"
                seconds[case].append(_take_over(broker, case, full, directory, records if case == "log" else 0, users))
                console.print(f"round {number + 1}, {case}: {seconds[case][-1]:.1f} s")
    summaries = {case: Summary.of(taken) for case, taken in seconds.items()}
    rows = [
        {"the other worker begins with": case, "seconds": each.median, "least": each.min, "most": each.max}
        for case, each in summaries.items()
    ]
    standby = summaries["standby copy"].median - _SESSION_S
    notes = [
        f"one partition, {users:,} users with full histories ({size / 1e9:.2g} GB of state); its worker is killed"
        f" (-9), another one takes it over; {_SESSION_S:g} s of each time are Kafka's session timeout",
        f"log: `behaviors` holds {records:,} records, not all that the state has: the time grows with their number",
    ]
    targets = [Target("with a standby copy, beyond the session timeout", standby, "s", _STANDBY_OVER_S)]
    return Findings({"results": rows}, _picture(summaries, users), targets, notes)


def _take_over(broker: Broker, case: str, full: Path, directory: Path, records: int, users: int) -> float:
    """Return the seconds from the kill to the first answer, in a system of its own."""
    settings = _settings(broker, directory, standbys=int(case == "standby copy"))
    topics = Topics(settings.topics.prefix)
    topic_admin.ensure(settings.kafka, topics, partitions=1, replication=1)
    with Client(settings.kafka, topics) as client, Processes(directory, settings) as processes:
        now = time.time_ns() // 1_000_000 - records
        for number in range(records):
            client.behavior(f"user-{number % users}", f"item-{number % 1000}", now + number)
        client.flush()
        offsets = {topics.behaviors: records, topics.impressions: 0, topics.clicks: 0, topics.scores: 0}
        copy_state(full, directory / "a" / "partition-00000", offsets)
        if case == "standby copy":
            copy_state(full, directory / "b" / "standby-00000", {topics.behaviors: records})
        elif case == "snapshot":
            copy_state(full, directory / "copy", {topics.behaviors: records})
            Snapshots(settings.state.snapshots, 0).save(directory / "copy", {topics.behaviors: records})
        waiting = {"a": "assigned partitions=0 ", "b": "assigned partitions= "}
        for name, text in waiting.items():
            instance = ("--set", f"kafka.group.instance.id={name}", "--set", f"state.directory={directory / name}")
            processes.start(name, "worker", *instance)
            _wait(lambda name=name, text=text: text in processes.log(name).read_text(), processes)  # type: ignore[misc]
        _first_answer(client, users, processes)
        if case == "standby copy":
            _wait(lambda: "standby_current partition=0" in processes.log("b").read_text(), processes)
        owner = processes.release("a")
        killed = time.monotonic()
        owner.kill()
        owner.wait()
        return _first_answer(client, users, processes) - killed


def _settings(broker: Broker, directory: Path, *, standbys: int) -> Settings:
    prefix = f"takeover-{time.time_ns():x}-"
    return load(
        None,
        overrides=[
            f"kafka.bootstrap.servers={broker.bootstrap}",
            f"kafka.session.timeout.ms={_SESSION_S * 1000:.0f}",
            f"topics.prefix={prefix}",
            "topics.partitions=1",
            f"state.snapshots={directory / 'snapshots'}",
            f"worker.group={prefix}workers",
            f"worker.standbys={standbys}",
            "worker.model_wait_s=0",
        ],
    )


def _first_answer(client: Client, users: int, processes: Processes) -> float:
    """Send requests until one of them is answered; returns when, on the monotonic clock."""
    sent: set[RequestKey] = set()
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        sent.add(client.impression(f"user-{len(sent) % users}", _CANDIDATES, 10))
        answered = client.poll_scores(_ASK_INTERVAL_S)
        if any(score.request in sent for score, _ in answered):
            return time.monotonic()
        processes.check()
    raise StreamError(f"no answer within {_DEADLINE_S:.0f} s")


def _wait(condition: Callable[[], bool], processes: Processes) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        processes.check()
        if time.monotonic() > deadline:
            raise StreamError(f"a worker was not ready within {_DEADLINE_S:.0f} s")
        time.sleep(0.05)


def _picture(summaries: Mapping[str, Summary], users: int) -> Callable[[], bytes]:
    def draw() -> bytes:
        standby = summaries["standby copy"].median
        title = f"With a standby copy, a killed worker's partition answers again after {standby:.1f} s"
        subtitle = f"{users:,} users with 1000 behaviours each; the line is Kafka's session timeout"
        with picture(title, subtitle, height=3.2) as (axes, save):
            names: Sequence[str] = list(summaries)
            for place, (name, colour) in enumerate(zip(names, PALETTE, strict=False)):
                each = summaries[name]
                axes.barh(place, each.median, color=colour, height=0.45)
                axes.text(0, place - 0.3, f"from a {name}" if name != "log" else "from the log", va="bottom", color=INK)
                axes.plot([each.min, each.max], [place, place], color=INK, linewidth=1.2)
                axes.text(each.max, place, f"  {each.median:.1f} s", va="center", fontweight="bold", color=colour)
            axes.axvline(_SESSION_S, color=INK, lw=1, ls=(0, (4, 3)))
            axes.set_yticks([])
            axes.set_ylim(len(names) - 0.6, -0.75)
            axes.grid(visible=False)
            return save()

    return draw
