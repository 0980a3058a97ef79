"""The worker's side of `model-updates`: a thread makes updates of parts; the worker takes them between batches.

A new worker begins with the updates of the last few checkpoints, whose bases hold all that came before them. Where the
trainer has been silent for longer, it reads the topic from its beginning: compaction keeps the newest base of each arm.
"""

import logging
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from model.errors import UpdateRefused
from model.serialization.parts import Assembler
from model.serialization.update import Update, Version
from stream.kafka.reader import TopicReader
from stream.runtime.closing import Resources
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.worker.metrics import WorkerMetrics

_logger = logging.getLogger("samstream.feed")

_AHEAD = 64
"""Updates prepared but not yet taken; more wait in Kafka."""
_CHECKPOINTS = 3
_ORDINARY = {"stale", "gap"}
"""Refusals that every start brings, before the first base."""


class UpdateTarget(Protocol):
    """What serves updates: the scorer of an arm, or the statistics of the stream."""

    version: Version

    def prepare(self, update: Update) -> Any:
        """Check an update in another thread, and return what `commit` takes.

        Raises:
            UpdateRefused: when it cannot be served.
        """

    def commit(self, prepared: Any) -> None:
        """Serve what was prepared.

        Raises:
            UpdateRefused: when it is not its turn.
        """


class ModelFeed:
    """Updates of some arms on their way from Kafka into their scorers.

    Args:
        settings: where Kafka is.
        scorers: arm → its scorer, or what else has updates; swapped only in `apply`, by the caller's thread.
        metrics: get the models' versions and ages, and refusals.
    """

    def __init__(self, settings: Settings, scorers: Mapping[str, UpdateTarget], metrics: WorkerMetrics) -> None:
        self._kafka = settings.kafka
        self._topic = Topics(settings.topics.prefix).model_updates
        self._recent_s = _CHECKPOINTS * settings.trainer.checkpoint_interval_s
        self._scorers = scorers
        self._assembler = Assembler(scorers)
        self._based: set[str] = set()
        self._updates: queue.Queue[tuple[Update, Callable[[], None]]] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._caught_up = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="model-feed", daemon=True)
        self._metrics = metrics
        self.refused: Counter[str] = Counter()
        """Reason → how many updates were refused for it."""
        self._refusals: dict[str, str] = {}
        self._log_limit = LogLimit()
        for arm, scorer in scorers.items():
            self._show(arm, scorer)
            metrics.model_age.labels(arm).set(0)

    def start(self, stop: threading.Event, *, wait_s: float) -> None:
        """Start reading; returns when every arm has its newest parameters, after `wait_s` without, or at `stop`."""
        self._thread.start()
        deadline = time.monotonic() + wait_s
        while not stop.wait(0.02):
            self.apply()
            if self._caught_up.is_set() and self._updates.empty() and self._all_served():
                return
            if time.monotonic() > deadline:
                break
        if not stop.is_set():
            untrained = [arm for arm, scorer in self._scorers.items() if not scorer.version.epoch]
            log(_logger, "serving_untrained", logging.WARNING, arms=",".join(untrained), waited_s=wait_s)

    def apply(self) -> None:
        """Take the updates that are ready; a refused one is counted, and the last good model serves on.

        Raises:
            StreamError: when updates can no longer be read.
        """
        if self._failure is not None:
            raise self._failure
        while True:
            try:
                update, commit = self._updates.get_nowait()
            except queue.Empty:
                return
            try:
                commit()
            except UpdateRefused as refusal:
                self._refuse(refusal, update.arm)
            else:
                self._refusals.pop(update.arm, None)
                self._show(update.arm, self._scorers[update.arm])
                taken_at = time.monotonic()
                self._metrics.model_age.labels(update.arm).set_function(partial(_seconds_since, taken_at))
                if update.kind == "base":
                    log(_logger, "base", arm=update.arm, epoch=update.epoch, version=update.version)

    @property
    def unknown_arms(self) -> Mapping[str, int]:
        """Arm that this worker does not have → how many updates of it came."""
        return self._assembler.unknown

    def notes(self) -> list[str]:
        """Return what is to be said of arms whose updates are refused for what is in them, until one is taken."""
        return [
            "arm {}: epoch {}, version {} serves on, its updates are refused ({})".format(
                arm, *self._scorers[arm].version, why
            )
            for arm, why in sorted(self._refusals.copy().items())
        ]

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            # Updates that were removed leave a gap, and the next base closes it.
            read = partial(TopicReader, self._kafka, [self._topic], on_missing="skip")
            recent = round(1000 * (time.time() - self._recent_s))
            if not self._follow(read(since_ms=recent), needs_bases=True):
                self._follow(read(from_beginning=True), needs_bases=False)
        except Exception as error:  # the thread that works raises it
            self._failure = error

    def _follow(self, tail: TopicReader, *, needs_bases: bool) -> bool:
        """Read until `stop`; with `needs_bases`, only until the present end if that brought no base for some arm.

        Returns whether it was read until `stop`.
        """
        with Resources() as resources:
            resources.add(tail)
            while not self._stop.is_set():
                for message in tail.read(0.1, limit=100):
                    self._take(message.value() or b"")
                if not self._caught_up.is_set() and tail.at_end():
                    if needs_bases and not self._based.issuperset(self._scorers):
                        return False
                    self._caught_up.set()
        return True

    def _take(self, part: bytes) -> None:
        arm = ""
        try:
            known = len(self._assembler.unknown)
            update = self._assembler.add(part)
            if len(self._assembler.unknown) > known:
                [*_, unknown] = self._assembler.unknown
                text = "give the worker the arms of the trainer, under the same names"
                log(_logger, "updates_of_unknown_arm", logging.WARNING, arm=unknown, remedy=text)
            if update is None:
                return
            arm = update.arm
            scorer = self._scorers[update.arm]
            served = scorer.version
            if update.kind == "base":
                self._based.add(update.arm)
                if update.epoch == served.epoch and update.version <= served.version:
                    return  # it is there for workers that start
            if update.at <= served:
                raise UpdateRefused("stale", f"{update.kind} {update.at}, but {served} is served")
            self._hand_over(update, partial(scorer.commit, scorer.prepare(update)))
        except UpdateRefused as refusal:
            self._refuse(refusal, arm)

    def _hand_over(self, update: Update, commit: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                self._updates.put((update, commit), timeout=0.1)
            except queue.Full:
                continue
            return

    def _show(self, arm: str, scorer: UpdateTarget) -> None:
        self._metrics.model_epoch.labels(arm).set(scorer.version.epoch)
        self._metrics.model_version.labels(arm).set(scorer.version.version)

    def _all_served(self) -> bool:
        return all(scorer.version.epoch for scorer in self._scorers.values())

    def _refuse(self, refusal: UpdateRefused, arm: str) -> None:
        self.refused[refusal.reason] += 1
        self._metrics.updates_refused.labels(refusal.reason).inc()
        level = logging.DEBUG
        if refusal.reason not in _ORDINARY:
            if arm:
                self._refusals[arm] = str(refusal)
            # A trainer of another model sends two a second: what differs in numbers alone is said every 30 s.
            if self._log_limit.admit((arm, re.sub(r"\d+", "", str(refusal)))) is not None:
                level = logging.WARNING
        log(_logger, "update_refused", level, arm=arm or "?", reason=str(refusal))


def _seconds_since(moment: float) -> float:
    return time.monotonic() - moment
