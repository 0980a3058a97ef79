"""CPU time by step, and of processes."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.bench.harness.process_cpu import cpu_seconds, cpu_seconds_by_thread_name
from stream.bench.harness.step_clock import STEPS, StepClock, read_steps

_HERE = sys.modules[__name__]


def work(seconds: float) -> None:
    """Keep the CPU busy for so many seconds of this thread's time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def inner() -> None:
    work(0.03)


def outer() -> None:
    work(0.01)
    inner()
    time.sleep(0.05)
    work(0.01)


def failing() -> None:
    work(0.01)
    raise ValueError("after the work")


def lazy() -> Iterator[int]:
    yield 1


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for function in (inner, outer, failing):
        monkeypatch.setattr(_HERE, function.__name__, function)
    names = {step: (f"{__name__}:{step}",) for step in ("outer", "inner", "failing")}
    monkeypatch.setitem(STEPS, "tested", names)
    StepClock(names, tmp_path / "tested.steps")
    return tmp_path


def test_a_step_has_its_own_cpu_time_without_that_of_steps_within(clock: Path) -> None:
    _HERE.outer()
    found = read_steps(clock, "tested")
    assert found["outer"] == pytest.approx(0.02, abs=0.008), "neither the inner step's time, nor that of the sleep"
    assert found["inner"] == pytest.approx(0.03, abs=0.008)
    assert found["failing"] == 0


def test_steps_of_several_threads_add_up_and_failures_end_a_step(clock: Path) -> None:
    threads = [threading.Thread(target=_HERE.inner) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ValueError, match="after the work"):
        _HERE.failing()
    work(0.02)  # belongs to no step
    found = read_steps(clock, "tested")
    assert found["inner"] == pytest.approx(0.09, abs=0.015)
    assert found["failing"] == pytest.approx(0.01, abs=0.008)


def test_what_cannot_be_timed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="lazy"):
        StepClock({"lazy": (f"{__name__}:lazy",)}, tmp_path / "steps")
    with pytest.raises(AttributeError, match="gone"):
        StepClock({"gone": (f"{__name__}:gone",)}, tmp_path / "steps")


def test_cpu_time_of_a_process_is_that_of_its_threads() -> None:
    before, mine = cpu_seconds(os.getpid()), sum(os.times()[:2])
    work(0.1)
    after = cpu_seconds(os.getpid())
    assert after - before == pytest.approx(sum(os.times()[:2]) - mine, abs=0.03)
    assert sum(cpu_seconds_by_thread_name(os.getpid()).values()) <= after + 0.03
