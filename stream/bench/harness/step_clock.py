"""The CPU time of each step of a process, by the clock of the thread that does it.

`python -m stream.bench.harness.step_clock DIRECTORY -m stream.cli worker …` runs the command with the functions of
`STEPS` wrapped: a step's time is that of its functions without that of other steps within. Whoever runs the command as
usual pays nothing, and the code that is measured knows nothing of it. A wrapped call costs 1 to 2 µs, so what is called
for each partition in each turn of a worker is left alone.

The sums lie in DIRECTORY, in a file that is mapped into memory: others read it while the process works.
"""

import functools
import inspect
import mmap
import runpy
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

Steps = Mapping[str, Sequence[str]]
"""Name → the functions that are this step, each as `module:name` of where it is looked up when it is called."""

STEPS: Mapping[str, Steps] = {
    "worker": {
        "consume": (
            "stream.worker.consumer:TaskConsumer.receive",
            "stream.worker.consumer:TaskConsumer.dispatch",
        ),
        "decode": ("stream.task.decode:RecordDecoder.decode",),
        "state": (
            "stream.task.fold:SequenceFold.add",
            "stream.task.fold:SequenceFold.read",
            "stream.task.fold:SequenceFold.count",
            "stream.task.fold:SequenceFold.flush",
            "stream.task.task:checksum",
        ),
        "join": (
            "stream.worker.worker:Worker._fold",
            "stream.task.task:Task.take_answer",
            "stream.task.windows:merge_labels",
            "stream.task.labels:_sample",
            "stream.task.labels:_outcome",
        ),
        "features": (
            "stream.task.task:Task._impression",
            "model.statistics.replica:StatisticsReplica.with_numbers",
            "model.predict:_looked_up",
            "model.network:Network._sequence",
            "model.network:Network._numbers",
        ),
        "collate": ("model.predict:model_batch",),
        "matches": ("model.network:Network._matched", "model.network:match_features"),
        "passes": ("model.network:packed", "model.interest.mean:MeanPooling.forward"),
        "head": ("model.network:Network.forward", "model.predict:by_example"),
        "answer": ("stream.worker.scoring:ArmScorers.answer",),
        "produce": (
            "stream.worker.producer:TaskProducer.send_score",
            "stream.kafka.producer:ReliableProducer.send",
            "stream.worker.producer:TaskProducer.poll",
        ),
        "commit": ("stream.worker.worker:Worker.commit",),
        "update": ("stream.worker.model_feed:ModelFeed.apply", "stream.worker.model_feed:ModelFeed._take"),
    },
    "trainer": {
        "consume": ("stream.trainer.samples:SampleReader.read",),
        "decode": ("stream.trainer.samples:_decoded", "stream.trainer.training:unpack_sample"),
        "sequences": (
            "stream.trainer.sequences:NamedSequences.reach",
            "stream.trainer.sequences:NamedSequences.find",
            "stream.trainer.sequences:NamedSequences.poll",
        ),
        "collate": ("model.learner:model_batch",),
        "tables": (
            "model.learner:batch_keys",
            "model.learner:embedded",
            "model.embedding.learned:Leaf.embed",
            "model.embedding.learned:LearnedTable.advance",
            "model.embedding.learned:LearnedTable.take",
            "model.embedding.learned:LearnedTable.step",
        ),
        "predict": ("model.network:Network.forward", "model.learner:by_example"),
        "forward": ("model.network:Network.learn",),
        "backward": ("torch:Tensor.backward",),
        "step": ("model.learner:Learner._step", "model.learner:Learner._follow", "model.network:Network.observe"),
        "publish": (
            "stream.trainer.publisher:UpdatePublisher.publish_deltas",
            "stream.trainer.publisher:UpdatePublisher.publish_bases",
        ),
        "checkpoint": ("stream.trainer.trainer:Trainer._save",),
    },
}
"""Command → its steps, in the order in which a record passes them."""


class _Now(threading.local):
    """What a thread is in: a step, by its place, and since when (s of the thread's CPU time)."""

    step = -1
    since = 0.0


class StepClock:
    """Wraps functions, and adds up the seconds of CPU time that threads spend in each step.

    Args:
        steps: what is wrapped; the functions stay wrapped until the process ends.
        file: gets the sums.

    Raises:
        TypeError: when a name is no function, or one that returns a generator, whose time is spent later.
    """

    def __init__(self, steps: Steps, file: Path) -> None:
        file.write_bytes(bytes(8 * len(steps)))
        with file.open("r+b") as opened:
            self._sums = memoryview(mmap.mmap(opened.fileno(), 0)).cast("d")
        self._lock = threading.Lock()
        self._now = _Now()
        for place, names in enumerate(steps.values()):
            for name in names:
                owner, _, attribute = name.replace(":", ".").rpartition(".")
                function = resolve_name(name)
                if not inspect.isfunction(function) or inspect.isgeneratorfunction(function):
                    raise TypeError(f"{name} is {function!r}, not a function whose time can be taken")
                setattr(resolve_name(owner), attribute, self._timed(function, place))

    def _timed(self, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        now = self._now

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            outer = now.step
            self._enter(place)
            try:
                return function(*arguments, **named)
            finally:
                self._enter(outer)

        return timed

    def _enter(self, place: int) -> None:
        now, time_s = self._now, time.thread_time()
        if now.step >= 0:
            with self._lock:
                self._sums[now.step] += time_s - now.since
        now.step, now.since = place, time_s


def launcher(directory: Path) -> tuple[str, ...]:
    """Return the arguments of Python that run a module with its steps timed."""
    return "-m", __name__, str(directory)


def read_steps(directory: Path, command: str) -> dict[str, float]:
    """Return step → seconds of CPU time so far of a command that runs with `launcher`."""
    return dict(zip(STEPS[command], np.fromfile(_file(directory, command), np.float64).tolist(), strict=True))


def _file(directory: Path, command: str) -> Path:
    return directory / f"{command}.steps"


def main() -> None:
    """Run `-m MODULE COMMAND …` with the steps of the command timed."""
    _, directory, _, module, command, *_ = sys.argv
    StepClock(STEPS[command], _file(Path(directory), command))
    sys.argv = sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
