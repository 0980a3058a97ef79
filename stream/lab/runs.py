"""One model or baseline through one world, alone or in several variants; courses run in processes side by side."""

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model import device
from model.spec import preset
from stream.lab.engine import Played, Stage, Watch
from stream.lab.rankers import Learned, Popularity, Ranker, Told
from stream.lab.script import Scenario, Script, write

Result = TypeVar("Result", covariant=True)

_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Course:
    """The same warm-up for all variants, then each in a twin of the world.

    Attributes:
        scenario: which world, how long.
        kind: `popularity`, `random`, `oracle`, or a preset of `model.spec`, such as `sam-50`.
        variants: name → seconds between updates; None for frozen after the warm-up.
    """

    scenario: Scenario
    kind: str
    variants: tuple[tuple[str, float | None], ...]

    @property
    def steps(self) -> int:
        """About how many visits there are to be played."""
        scenario = self.scenario
        seconds = scenario.warm_up_s + len(self.variants) * scenario.measured_s
        return round(scenario.rate * seconds)

    def __call__(self, watch: Watch) -> dict[str, Played]:
        """Return what came of each variant."""
        script = write(self.scenario)
        ranker = _ranker(self.kind, script)
        stage = Stage(script)
        stage.warm_up(ranker, watch)
        played = {}
        for name, update_s in self.variants[:-1]:
            if not isinstance(ranker, Learned):
                raise TypeError(f"{self.kind} does not learn from updates: it has one variant")
            played[name] = stage.twin().play(ranker.twin(), update_s, watch)
        name, update_s = self.variants[-1]
        played[name] = stage.play(ranker, update_s, watch)
        return played


class Job(Protocol[Result]):
    """Something to be computed, in a process of its own if need be."""

    @property
    def steps(self) -> int:
        """About how often `watch` will hear of a step."""

    def __call__(self, watch: Watch) -> Result:
        """Compute; `watch` is told of steps done."""


def run_all(jobs: Sequence[Job[Result]], console: Console, *, processes: int) -> list[Result]:
    """Do all jobs under one progress bar, and return what they return, in their order.

    With one process they run in this one. Raises what a job raises.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{len(jobs)} courses", total=sum(job.steps for job in jobs))

        def watch(steps: int) -> None:
            progress.advance(task, steps)

        if processes == 1:
            device.prepare(threads=1)
            return [job(watch) for job in jobs]
        return _side_by_side(jobs, watch, processes)


def _side_by_side(jobs: Sequence[Job[Result]], watch: Watch, processes: int) -> list[Result]:
    context = multiprocessing.get_context("spawn")
    heard: multiprocessing.Queue[int] = context.Queue()
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(heard,)) as pool:
        futures = [pool.submit(_do, job) for job in jobs]
        try:
            while wait(futures, timeout=_POLL_S, return_when=FIRST_EXCEPTION).not_done:
                _drain(heard, watch)
                if any(future.done() and future.exception() for future in futures):
                    break
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _drain(heard: "multiprocessing.Queue[int]", watch: Watch) -> None:
    try:
        while True:
            watch(heard.get_nowait())
    except queue.Empty:
        pass


_tell: Callable[[int], None] = print
"""Where a process of the pool says how far it is; set when it begins."""


def _begin(heard: "multiprocessing.Queue[int]") -> None:
    global _tell
    _tell = heard.put
    device.prepare(threads=1)


def _do(job: Job[Any]) -> Any:
    return job(_tell)


def _ranker(kind: str, script: Script) -> Ranker:
    match kind:
        case "popularity":
            return Popularity()
        case "random":
            return Told.random(script)
        case "oracle":
            return Told.oracle(script)
        case _:
            return Learned(preset(kind), seed=script.scenario.seed)
