"""Runs of one ranker through one world, in one or several variants, and a pool of processes that executes them."""

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model import device
from stream.lab.arm_names import named_spec
from stream.lab.engine import HALF_LIVES_S, SEQUENCE_LENGTH, Environment, OnProgress, Rollout
from stream.lab.rankers import FixedScores, ModelRanker, PopularityRanker, Ranker
from stream.lab.script import Scenario, Script, generate_script

Result = TypeVar("Result", covariant=True)

_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Run:
    """One ranker in one world: a warm-up, then each variant in its own fork of the environment.

    Attributes:
        scenario: the world and how long it lasts.
        kind: `popularity`, `random`, `oracle`, or the name of a model: `sam-50`, `sam:passes=3`.
        variants: name → seconds between updates; None: frozen after the warm-up.
    """

    scenario: Scenario
    kind: str
    variants: tuple[tuple[str, float | None], ...]

    @property
    def steps(self) -> int:
        """About how many visits there are."""
        scenario = self.scenario
        seconds = scenario.warm_up_s + len(self.variants) * scenario.measured_s
        return round(scenario.rate * seconds)

    def __call__(self, on_progress: OnProgress) -> dict[str, Rollout]:
        """Return the rollout of each variant.

        Raises:
            TypeError: for several variants of a ranker without updates.
        """
        script = generate_script(self.scenario)
        ranker = _ranker(self.kind, script)
        reads = named_spec(self.kind).length if isinstance(ranker, ModelRanker) else SEQUENCE_LENGTH
        environment = Environment(script, length=reads)
        environment.warm_up(ranker, on_progress)
        rollouts = {}
        for name, update_s in self.variants[:-1]:
            if not isinstance(ranker, ModelRanker):
                raise TypeError(f"{self.kind} has no updates, so it can have one variant only")
            rollouts[name] = environment.fork().rollout(ranker.fork(), update_s, on_progress)
        name, update_s = self.variants[-1]
        rollouts[name] = environment.rollout(ranker, update_s, on_progress)
        return rollouts


class Job(Protocol[Result]):
    """A computation that can run in another process."""

    @property
    def steps(self) -> int:
        """About how many steps it will report."""

    def __call__(self, on_progress: OnProgress) -> Result:
        """Compute the result; `on_progress` is called with the number of steps since its last call."""


def run_all(jobs: Sequence[Job[Result]], console: Console, *, processes: int) -> list[Result]:
    """Run all jobs under one progress bar, and return their results in the order of the jobs.

    With `processes=1` they run in this process. An exception of a job is raised here.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{len(jobs)} runs", total=sum(job.steps for job in jobs))

        def on_progress(steps: int) -> None:
            progress.advance(task, steps)

        if processes == 1:
            device.configure_torch(threads=1)
            return [job(on_progress) for job in jobs]
        return _run_in_pool(jobs, on_progress, processes)


def _run_in_pool(jobs: Sequence[Job[Result]], on_progress: OnProgress, processes: int) -> list[Result]:
    context = multiprocessing.get_context("spawn")
    steps_done: multiprocessing.Queue[int] = context.Queue()
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_process, initargs=(steps_done,)) as pool:
        futures = [pool.submit(_run_job, job) for job in jobs]
        try:
            while wait(futures, timeout=_POLL_S, return_when=FIRST_EXCEPTION).not_done:
                _report_progress(steps_done, on_progress)
                if any(future.done() and future.exception() for future in futures):
                    break
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _report_progress(steps_done: "multiprocessing.Queue[int]", on_progress: OnProgress) -> None:
    try:
        while True:
            on_progress(steps_done.get_nowait())
    except queue.Empty:
        pass


_report_steps: Callable[[int], None] = print
"""Reports the steps that a process of the pool has done; set when the process starts."""


def _start_process(steps_done: "multiprocessing.Queue[int]") -> None:
    global _report_steps
    _report_steps = steps_done.put
    device.configure_torch(threads=1)


def _run_job(job: Job[Any]) -> Any:
    return job(_report_steps)


def _ranker(kind: str, script: Script) -> Ranker:
    match kind:
        case "popularity":
            return PopularityRanker()
        case "random":
            return FixedScores.random(script)
        case "oracle":
            return FixedScores.oracle(script)
        case _:
            spec = named_spec(kind)
            if spec.statistics:
                spec = msgspec.structs.replace(spec, statistics=HALF_LIVES_S)
            return ModelRanker(spec, seed=script.scenario.seed)
