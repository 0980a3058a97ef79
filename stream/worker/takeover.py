"""Takes over the partitions of one assignment in a thread of its own, while the worker answers for those it has.

A state may have to be restored from a snapshot, which takes as long as it takes: longer than a rebalance may
(`max.poll.interval.ms`). Until a partition is ready it is not read, and the worker stays in its group.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue

from stream.kafka.clients import consumer as new_consumer
from stream.kafka.identity import compare_state
from stream.runtime.closing import Resources, close_all
from stream.schema.erasures import Erasures
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.position import LogIdentity
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.task import Task
from stream.worker.local_state import LocalState
from stream.worker.recovery import RecoveryPlanner


class TakeOver:
    """Opens, restores and plans partitions one after the other; those whose state is on this machine first.

    Args:
        settings: the configuration.
        topics: the topic names.
        logs: topic → which log it is now: the input topics and `scores`.
        states: opens the states.
        numbers: the partition numbers.
        partitions: how many partitions the input topics have.
        before: called first, in the thread; for what must have let go of these partitions.
        erasures: users who were erased.
        formats: of the topics.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        logs: Mapping[str, LogIdentity],
        states: LocalState,
        numbers: Sequence[int],
        *,
        partitions: int,
        before: Callable[[], None] = lambda: None,
        erasures: Erasures | None = None,
        formats: Formats = JSON_ONLY,
    ) -> None:
        self._formats = formats
        self._erasures = Erasures() if erasures is None else erasures
        self._settings = settings
        self._topics = topics
        self._logs = logs
        self._states = states
        self._partitions = partitions
        self._before = before
        self._cancelled = threading.Event()
        self._failure: Exception | None = None
        self._ready: SimpleQueue[tuple[int, Task]] = SimpleQueue()
        self.numbers = list(numbers)
        """All partition numbers of the assignment."""
        self.left = set(numbers)
        """Those that were not taken yet."""
        self._thread = threading.Thread(target=self._run, name="take-over", daemon=True)
        self._thread.start()

    def take(self) -> dict[int, Task]:
        """Return partition number → task of those that have become ready.

        Raises:
            StreamError: when a partition cannot be taken over.
            StateError: likewise, when its state cannot be opened or restored.
        """
        tasks = {}
        while True:
            try:
                number, task = self._ready.get_nowait()
            except Empty:
                break
            tasks[number] = task
        self.left -= tasks.keys()
        if self._failure is not None and not tasks:
            raise self._failure
        return tasks

    def cancel(self) -> None:
        """End it, and close what was not taken; waits until nothing is open any more."""
        self._cancelled.set()
        self._thread.join()
        self._failure = None
        close_all(task.close for task in self.take().values())

    def _run(self) -> None:
        try:
            self._before()
            with Resources() as resources:
                group = {"group.id": self._settings.worker.group}
                # One of its own: questions do not wait behind fetches, and it is closed by the thread that uses it.
                asker = resources.add(new_consumer(self._settings.kafka, group))
                planner = RecoveryPlanner(self._settings, asker, self._logs, self._check)
                planner.check_partitions()
                for number in self._states.nearest_first(self.numbers):
                    self._check()
                    compare = partial(compare_state, asker, self._logs[self._topics.behaviors], number)
                    with Resources() as opened:
                        partition = opened.add(self._states.open(number, compare, self._check))
                        resume = planner.plan(number, partition.offsets, partition.origins)
                        task = Task(
                            partition,
                            self._topics,
                            self._settings.worker,
                            resume,
                            self._settings.feature_schema(),
                            partitions=self._partitions,
                            erasures=self._erasures.of(number),
                            formats=self._formats,
                        )
                        opened.keep()
                    self._ready.put((number, task))
        except _CancelledError:
            pass
        except Exception as error:  # of any kind: the worker's thread raises it
            self._failure = error

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise _CancelledError


class _CancelledError(Exception):
    """The partitions were taken away again."""
