"""The worker's side of `model-updates`: a thread makes updates of parts; the worker takes them between batches.

A new worker reads the topic from its beginning: compaction keeps the newest base of each arm and bounds what lies
before it.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Mapping

from model.errors import UpdateRefused
from model.scorer import Prepared, Scorer
from model.update import Assembler
from stream.logs import log
from stream.settings import Settings
from stream.tail import Tail
from stream.topics import Topics

_logger = logging.getLogger("samstream.feed")

_AHEAD = 64
"""Updates prepared but not yet taken; more wait in Kafka."""


class ModelFeed:
    """Updates of some arms on their way from Kafka into their scorers.

    Args:
        settings: where Kafka is.
        scorers: arm → its scorer; swapped only in `apply`, by the caller's thread.
    """

    def __init__(self, settings: Settings, scorers: Mapping[str, Scorer]) -> None:
        self._scorers = scorers
        self._assembler = Assembler(scorers)
        self._tail = Tail(settings.kafka, [Topics(settings.topics.prefix).model_updates], from_beginning=True)
        self._updates: queue.Queue[Prepared] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._caught_up = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="model-feed", daemon=True)
        self.refused: Counter[str] = Counter()
        """Reason → how many updates were refused for it."""

    def start(self, *, wait_s: float) -> None:
        """Start reading; returns when every arm has its newest parameters, or after `wait_s` without a trainer's."""
        self._thread.start()
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            self.apply()
            if self._caught_up.wait(0.02) and self._updates.empty() and self._all_served():
                break
        else:
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
                prepared = self._updates.get_nowait()
            except queue.Empty:
                return
            update = prepared.update
            try:
                self._scorers[update.arm].commit(prepared)
            except UpdateRefused as refusal:
                self._refuse(refusal)
            else:
                if update.kind == "base":
                    log(_logger, "base", arm=update.arm, epoch=update.epoch, version=update.version)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._tail.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for message in self._tail.read(0.1, limit=100):
                    try:
                        if update := self._assembler.add(message.value() or b""):
                            self._hand_over(self._scorers[update.arm].prepare(update))
                    except UpdateRefused as refusal:
                        self._refuse(refusal)
                if self._tail.at_end():
                    self._caught_up.set()
        except Exception as error:  # the thread that works raises it
            self._failure = error

    def _hand_over(self, prepared: Prepared) -> None:
        while not self._stop.is_set():
            try:
                self._updates.put(prepared, timeout=0.1)
            except queue.Full:
                continue
            return

    def _all_served(self) -> bool:
        return all(scorer.version.epoch for scorer in self._scorers.values())

    def _refuse(self, refusal: UpdateRefused) -> None:
        self.refused[refusal.reason] += 1
        log(_logger, "update_refused", logging.DEBUG, reason=str(refusal))
