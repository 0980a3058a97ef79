"""The benchmarks of endurance and growth: what counts as growth, and that they run."""

import argparse
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from state.partition import Partition
from stream.bench import growth, soak
from stream.bench.harness.full_state import add_full_histories, copy_state
from stream.bench.harness.load import TimedAnswer
from stream.bench.harness.probe import disk_megabytes, read_process
from stream.bench.harness.soak_watch import Job, Reading, Restart
from stream.bench.harness.trend import slope_an_hour
from stream.local.broker import Broker
from stream.schema.events import Spent

PNG = b"\x89PNG"
QUIET = Console(file=io.StringIO())
WORKER = Job("worker", "worker-1", "")


def course(**grows: float) -> soak.Course:
    """Return how a run of an hour went in which the measures named grow by so much, all others by nothing."""
    rng, seconds = np.random.default_rng(0), np.arange(0.0, 3600, 10)
    rows, _ = soak.judge(soak.Course(_Flat(seconds), [], 1200.0, 3600.0))
    series = _Flat(seconds)
    for row in rows:
        name = str(row["what"])
        values = 100 + grows.get(name.replace(" ", "_"), 0.0) * seconds / 3600 + rng.normal(size=len(seconds)) * 0.1
        values[seconds < 1200] = 1  # before it is steady
        values[::7] = np.nan  # a process was away
        values[3::11] = 1e4  # outliers
        series[name] = (seconds, values)
    return soak.Course(series, [Restart(600.0, WORKER, signal.SIGKILL)], 1200.0, 3600.0)


class _Flat(dict[str, tuple[soak.Floats, soak.Floats]]):
    def __init__(self, seconds: soak.Floats) -> None:
        self._seconds = seconds

    def __missing__(self, name: str) -> tuple[soak.Floats, soak.Floats]:
        return self._seconds, np.ones(len(self._seconds))


def missed(of: soak.Course) -> list[str]:
    _, targets = soak.judge(of)
    return [target.name for target in targets if not target.met]


def test_what_is_flat_after_the_warm_up_is_no_growth_whatever_single_values_are() -> None:
    assert missed(course()) == []


def test_what_grows_is_a_missed_target_by_name() -> None:
    found = course(memory_of_the_worker=15, threads_of_the_trainer=9, memory_of_the_broker=500, p99=-50)
    assert missed(found) == ["memory of the worker, growth in an hour", "threads of the trainer, growth in an hour"]
    assert soak._picture(found)().startswith(PNG)


def test_a_slope_needs_three_values() -> None:
    assert slope_an_hour([0, 1800, 3600], [1, 2, 3]) == pytest.approx(2)
    assert slope_an_hour([0, 1800, 3600], [1, np.nan, 3]) is None


def test_latency_is_told_of_each_half_minute_in_which_requests_were_due() -> None:
    answers = [TimedAnswer(1000.0 + at, 1000.0 + at + taken, (1, 1), Spent(1, 1, 1)) for at, taken in
               ((0, 0.1), (10, 0.3), (29, 0.2), (95, 0.5))]  # fmt: skip
    found = soak.latency(answers, 1000.0)
    assert found["p50"][0].tolist() == [15, 105]
    assert found["p50"][1] == pytest.approx([200, 500])


def test_readings_become_series() -> None:
    series = soak.readings_by_measure([Reading(12.0, {"a": 1.0}), Reading(22.0, {"a": 2.0})], 10.0)
    assert [each.tolist() for each in series["a"]] == [[2, 12], [1, 2]]


# A process of its own: that of the tests has other children, such as a broker, which come and go.
PARENT = """
import subprocess, sys
print("alone", flush=True)
input()
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
input()
child.communicate()
"""
BUSY = """
import threading
print("begun", flush=True)
while True:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
"""


@contextmanager
def python(code: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """Run some code; yields its process, and what returns its next line."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout
        assert said is not None
        try:
            yield process, said.readline
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
def test_a_process_is_read_with_its_children_until_it_ends() -> None:
    with python(PARENT) as (parent, line):
        line()
        before = read_process(parent.pid)
        assert parent.stdin is not None
        parent.stdin.write("\n")
        parent.stdin.flush()
        child = int(line())
        alone, both = read_process(child), read_process(parent.pid)
        assert before is not None
        assert alone is not None
        assert both is not None
        assert alone.descriptors >= 3
        assert alone.threads == 1
        assert both.descriptors >= before.descriptors + 3
        parent.communicate("\n")
        assert read_process(child) is None
        assert read_process(parent.pid) is None


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
def test_a_process_has_not_ended_when_one_of_its_threads_has() -> None:
    with python(BUSY) as (process, line):
        line()
        assert all(read_process(process.pid) is not None for _ in range(2000))


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(3_000_000))
    (tmp_path / "deep").mkdir()
    os.link(tmp_path / "one", tmp_path / "deep" / "two")
    assert disk_megabytes([tmp_path]) == 3.0


def test_full_histories_are_added_and_a_copy_is_a_state_of_its_own(tmp_path: Path) -> None:
    add_full_histories(tmp_path / "full", 0, 3, QUIET)
    assert add_full_histories(tmp_path / "full", 3, 5, QUIET) > 5 * 1000 * 20
    copy_state(tmp_path / "full", tmp_path / "copy", {"behaviors": 7})
    partition = Partition.open(tmp_path / "copy", cache_bytes=1 << 20)
    try:
        assert partition.offsets == {"behaviors": 7}
        for user in range(5):
            read = partition.sequences.read(f"user-{user}")
            assert len(read) == 1000
            assert (np.diff(read["ts"]) > 0).all()
        assert partition.sequences.count("user-5") == 0
    finally:
        partition.close()


@pytest.mark.slow
def test_the_bench_of_growth_runs(broker: Broker) -> None:
    findings = growth.run(argparse.Namespace(quick=True, broker=broker.bootstrap), QUIET)
    assert [row["users"] for row in findings.tables["results"]] == [20, 40]
    assert all(row["memory, MB"] > 50 and row["p99, ms"] > 0 for row in findings.tables["results"])
    assert findings.picture().startswith(PNG)


@pytest.mark.slow
def test_the_bench_of_endurance_restarts_what_it_watches(broker: Broker) -> None:
    began = time.monotonic()
    findings = soak.run(argparse.Namespace(quick=True, broker=broker.bootstrap, minutes=30.0), QUIET)
    assert time.monotonic() - began > 40
    rows = {row["what"]: row for row in findings.tables["results"]}
    assert rows["memory of the worker"]["median"] > 50
    assert any(note.startswith("unanswered: 0 of") for note in findings.notes)
    assert findings.picture().startswith(PNG)
