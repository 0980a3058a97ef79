"""Warm standbys: copies of partitions that this worker would get if another one died, a moment behind their owners.

The idea is that of standby replicas in Kafka Streams (KIP-441). The assignment stays Kafka's: which partitions those
are is foreseen from the group's members (`standby_plan`).
"""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from confluent_kafka import Consumer, KafkaException

from state.errors import StateError
from stream.errors import StreamError
from stream.kafka.clients import consumer as new_consumer
from stream.kafka.groups import GroupClient
from stream.kafka.identity import compare_state
from stream.kafka.offsets import watermarks
from stream.kafka.outage import outage_of
from stream.runtime.closing import Resources, close_all
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.schema.erasures import Erasures
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.position import LogIdentity
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.paced_fold import PacedFold
from stream.worker.metrics import WorkerMetrics
from stream.worker.snapshots import Snapshotter
from stream.worker.standby_feed import StandbyFeed
from stream.worker.standby_plan import standby_partitions
from stream.worker.standby_store import StandbyStore

_logger = logging.getLogger("samstream.standbys")

_READ_S = 0.1
_ASK_INTERVAL_S = 1.0
_PLAN_INTERVAL_S = 10.0
_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's place in its group: its member id, and which log `behaviors` is."""

    member: str
    log: LogIdentity


class Standbys:
    """Keeps the copies, in a thread of its own. What goes wrong with one costs that one, and is logged.

    Args:
        settings: the configuration; without `worker.standbys` there is no copy and no thread.
        topics: the topic names.
        snapshotter: gives a copy its beginning where this machine has none.
        metrics: of the worker.
        partitions: how many partitions the input topics have.
        erasures: users who were erased.
        formats: of the topics.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        snapshotter: Snapshotter,
        metrics: WorkerMetrics,
        *,
        partitions: int,
        erasures: Erasures | None = None,
        formats: Formats = JSON_ONLY,
    ) -> None:
        self._formats = formats
        self._erasures = Erasures() if erasures is None else erasures
        self._settings = settings
        self._topics = topics
        self._metrics = metrics
        self._partitions = partitions
        record = settings.feature_layout.behavior
        self._store = StandbyStore(settings.state, topics.behaviors, snapshotter, record)
        self._copies: dict[int, PacedFold] = {}
        self._current: set[int] = set()
        self._retry_at: dict[int, float] = {}
        self._place: Place | None = None
        self._next_plan = 0.0
        # Kept: clients of copies come and go while Kafka is away.
        self._outage = outage_of(settings.kafka)
        self._log_limit = LogLimit()
        self._lock = threading.Lock()
        self._releasing = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, place: Place) -> None:
        """Keep the copies that are of use at this place in the group."""
        if not self._settings.worker.standbys:
            return
        self._place, self._next_plan = place, 0.0
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="standbys", daemon=True)
            self._thread.start()

    def rest(self) -> None:
        """Begin no further copies: the group rebalances."""
        self._place = None

    def release(self, numbers: Iterable[int]) -> None:
        """Close the copies of partitions whose states are about to be opened; call it after `rest`.

        Raises:
            StateError: when one cannot be written or closed.
        """
        self._releasing.set()
        with self._lock:
            self._releasing.clear()
            copies = [self._copies.pop(number) for number in numbers if number in self._copies]
            close_all(step for copy in copies for step in (copy.commit, copy.close))

    def close(self) -> None:
        """Close all copies, and end the thread."""
        self.rest()
        self._stop.set()
        close_all([lambda: self.release(range(self._partitions)), *([self._thread.join] if self._thread else [])])

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with Resources() as resources:
                        self._keep(resources)
                except (StreamError, StateError, KafkaException) as error:
                    # With other clients: these may have forgotten all brokers.
                    self._tell(error)
                    self._stop.wait(_ASK_INTERVAL_S)
        except Exception as error:  # of a kind that nobody foresaw: answers do not depend on copies
            log(_logger, "standbys_ended", logging.ERROR, error=f"{type(error).__name__}: {error}")
            with self._lock:
                copies = [self._copies.pop(number) for number in list(self._copies)]
                self._metrics.standby_partitions.set(0)
                close_all((copy.close for copy in copies), after=error)

    def _tell(self, error: Exception) -> None:
        """Log why copies do not follow, now and then; of a Kafka that is away there is a line already."""
        if not self._outage.unanswered and self._log_limit.admit("waiting") is not None:
            log(_logger, "standbys_waiting", logging.WARNING, error=error)

    def _keep(self, resources: Resources) -> None:
        """Plan, read and fold until the end.

        Args:
            resources: get the client that is closed then.
        """
        # Records of a copy must not take the memory that the worker's own have.
        own = {"group.id": self._settings.worker.group, "auto.offset.reset": "error"}
        consumer = resources.add(new_consumer(self._settings.kafka, {**own, "queued.max.messages.kbytes": "8192"}))
        group = GroupClient(self._settings.kafka, self._settings.worker.group)
        feed = StandbyFeed(consumer, self._topics.behaviors)
        next_question = 0.0
        while not self._stop.is_set():
            try:
                now = time.monotonic()
                if (place := self._place) is not None and now >= self._next_plan:
                    self._plan(group, consumer, place, now)
                if now >= next_question:
                    next_question = now + _ASK_INTERVAL_S
                    feed.ask(dict(self._copies))
                    with self._lock:
                        self._commit(feed)
                with self._lock:
                    for number in feed.read(self._copies):
                        self._drop(number, "Kafka has removed what comes next")
            except _ReleasingError:
                pass
            self._stop.wait(0.0 if self._copies else _READ_S)

    def _plan(self, group: GroupClient, consumer: Consumer, place: Place, now: float) -> None:
        """Open the copies that are of use, and close the others."""
        self._next_plan = now + _PLAN_INTERVAL_S
        held = group.members(self._topics.impressions)
        if place.member not in held:  # the group rebalances
            self._next_plan = now + _ASK_INTERVAL_S
            return
        at, deaths = list(held).index(place.member), self._settings.worker.standbys
        wanted = standby_partitions(list(held.values()), at, self._partitions, deaths)
        for number in self._copies.keys() - set(wanted):
            with self._lock:
                self._close(number)
        for number in wanted:
            with self._lock:
                if number not in self._copies and now >= self._retry_at.get(number, 0.0) and self._place is place:
                    self._retry_at[number] = now + _RETRY_S
                    self._open(number, consumer, place)
        self._store.remove_unused(wanted, now)

    def _open(self, number: int, consumer: Consumer, place: Place) -> None:
        oldest, _ = watermarks(consumer, self._topics.behaviors, number)
        compare = partial(compare_state, consumer, place.log, number)
        try:
            partition = self._store.open(number, oldest, compare, self._check)
        except (StateError, StreamError) as error:
            log(_logger, "standby_refused", logging.WARNING, partition=number, reason=error)
            return
        if partition is not None:
            self._copies[number] = copy = PacedFold(
                partition,
                self._topics,
                self._settings.worker,
                place.log,
                oldest,
                self._settings.feature_schema(),
                partitions=self._partitions,
                erasures=self._erasures.of(number),
                formats=self._formats,
            )
            log(_logger, "standby", partition=number, behaviors=copy.offset)

    def _commit(self, feed: StandbyFeed) -> None:
        behind = 0
        for number, copy in list(self._copies.items()):
            try:
                copy.commit()
                copy.purge()
            except StateError as error:
                self._drop(number, error)
                continue
            left = feed.behind(number, copy)
            behind += left
            if not left and number not in self._current:
                self._current.add(number)
                log(_logger, "standby_current", partition=number, behaviors=copy.offset)
        self._metrics.standby_partitions.set(len(self._copies))
        self._metrics.standby_lag.set(behind)

    def _drop(self, number: int, reason: object) -> None:
        """Close a copy that cannot go on, and remove it."""
        log(_logger, "standby_refused", logging.WARNING, partition=number, reason=reason)
        try:
            self._close(number)
        except StateError as error:
            log(_logger, "close_failed", logging.WARNING, what=f"standby {number}", error=error)
        self._store.remove(number)

    def _close(self, number: int) -> None:
        self._current.discard(number)
        if (copy := self._copies.pop(number, None)) is not None:  # it may have been released in the meantime
            copy.close()

    def _check(self) -> None:
        if self._releasing.is_set() or self._stop.is_set():
            raise _ReleasingError


class _ReleasingError(Exception):
    """A copy that is being restored stands in the way of a state that is about to be opened."""
