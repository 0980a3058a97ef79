"""Counts `behaviors` in a thread of its own: the statistics of the stream, with the offsets that they have reached."""

import logging
import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
from confluent_kafka import Message

from model.serialization.checkpoint import ArmState
from model.serialization.update import Update
from model.statistics.primary import StatisticsPrimary
from state.behavior import BehaviorArray
from stream.kafka.reader import TopicReader
from stream.runtime.progress import Progress
from stream.schema.events import DECODE_ERRORS, Behavior, decode_behavior, decode_behaviors
from stream.schema.formats import JSON_ONLY, Formats, await_ready
from stream.schema.position import encode_origins
from stream.task.plain_behaviors import pack_events, read_plain

_logger = logging.getLogger("samstream.trainer")

_READ = 500
"""Records that are decoded at once. At 700 new objects Python's garbage collector begins to look through them, and then
through all that the trainer has: reading 2000 at once took twice as long each."""
_BATCH = 5000
"""Records from which on they are counted, if more wait; the trainer's own thread waits no longer than that takes."""
_POLL_S = 0.1
_GATHER_S = 0.05
"""How long the next records gather once all are counted: a few at a time cost many times as much each, and every turn
takes the interpreter from the trainer's own thread."""


class BehaviorCounter:
    """Folds `behaviors` into counts; the counts and the offsets in them are always read together.

    A record that is no behaviour, or whose `ts` is ahead of its own time, is left out: a worker sends it to the dead
    letters, and one event of the far future would let all others fade.

    Args:
        statistics: as of the reader's positions.
        reader: reads `behaviors` on from there.
        max_future_s: how far `ts` may be ahead of the record's timestamp.
        formats: of the topic; a record that they are not ready for is waited for.
    """

    def __init__(
        self,
        statistics: StatisticsPrimary,
        reader: TopicReader,
        *,
        max_future_s: float,
        formats: Formats = JSON_ONLY,
    ) -> None:
        self._formats = formats
        self._statistics = statistics
        self._reader = reader
        self._max_future_ms = max_future_s * 1000
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._positions = dict(reader.positions)
        self._timestamps = dict(reader.timestamps)
        self.lag = 0
        """Behaviours that wait, as far as the client has heard."""
        self.counts: Counter[str] = Counter()
        """Behaviours counted, and those that were left out."""
        self._thread = threading.Thread(target=self._run, name="behavior-counter", daemon=True)

    def start(self) -> None:
        """Begin to count."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, and the reading."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._reader.close()

    def check(self) -> None:
        """Raise what has ended the counting.

        Raises:
            StreamError: when `behaviors` can no longer be read.
        """
        if self._failure is not None:
            raise self._failure

    @property
    def changed(self) -> bool:
        """Whether anything was counted since the last delta."""
        return self._statistics.changed

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each table."""
        return self._statistics.rows

    @property
    def position(self) -> int:
        """The sum of the offsets reached; it grows with every record."""
        return sum(self._positions.values())

    def delta(self, arm: str) -> Update:
        """Return what has changed since the last delta."""
        with self._lock:
            return self._statistics.delta(arm)

    def base(self, arm: str) -> Update:
        """Return all counts."""
        with self._lock:
            return self._statistics.base(arm)

    def save(self) -> ArmState:
        """Return the counts with the offsets that they have reached, and what these are offsets of."""
        with self._lock:
            offsets = {str(number): offset for (_, number), offset in self._positions.items()}
            origins = encode_origins(self._reader.logs, self._positions, self._timestamps)
            progress = {"offsets": offsets, "origins": {str(number): origin for number, origin in origins.items()}}
            return ArmState(self._statistics.state(), progress)

    def _run(self) -> None:
        progress = None
        if left := self._reader.left():
            progress = Progress(_logger, "counting_behaviors", "records", left)
        try:
            while not self._stop.is_set():
                counted, records = self._next()
                with self._lock:
                    self._statistics.fold(counted)
                    self._positions, self._timestamps = dict(self._reader.positions), dict(self._reader.timestamps)
                self.counts["behaviors_counted"] += len(counted)
                self.counts["behaviors_not_counted"] += records - len(counted)
                # Asked in this thread: in another one it would wait for the poll.
                self.lag = self._reader.lag()
                if progress is not None:
                    left = self._reader.left()
                    progress.reach(progress.total - left)
                    if not left:
                        progress.close()
                        progress = None
                if records < _BATCH:
                    self._stop.wait(_GATHER_S)
        except _StoppedError:
            pass
        except Exception as error:  # the thread that trains raises it
            self._failure = error
        finally:
            if progress is not None:
                progress.close()

    def _next(self) -> tuple[BehaviorArray, int]:
        """Return the behaviours in the next records, packed, and how many records these were."""
        packed: list[BehaviorArray] = []
        records = read = 0
        while not packed or (read and records < _BATCH):
            part, read = self._read(0.0 if packed else _POLL_S)
            packed.append(part)
            records += read
        return np.concatenate(packed), records

    def _read(self, timeout_s: float) -> tuple[BehaviorArray, int]:
        # The records are gone before the next ones are read: so few objects live at any time.
        messages = self._reader.read(timeout_s, limit=_READ)
        values = [message.value() or b"" for message in messages]
        if messages and self._formats.reads(topic := messages[0].topic() or ""):
            await_ready(self._formats, ((topic, value) for value in values), self._pause)
            values = [_json(self._formats, topic, value) for value in values]
        return self._packed(messages, values), len(messages)

    def _pause(self) -> None:
        if self._stop.wait(_POLL_S):
            raise _StoppedError

    def _packed(self, messages: Sequence[Message], values: Sequence[bytes]) -> BehaviorArray:
        """Return the behaviours in some records, packed, without their actions: all are counted alike.

        Whole columns at a time: this takes the interpreter from the thread that trains.

        Args:
            messages: the records.
            values: of each, as JSON.
        """
        packed, plain = read_plain(values)
        if not plain.all():
            others = np.flatnonzero(~plain)
            rest = [values[place] for place in others.tolist()]
            decoded: Sequence[Behavior | None] = decode_behaviors(rest) or [_decoded(value) for value in rest]
            there = np.array([event is not None for event in decoded])
            packed[others[there]] = pack_events([event for event in decoded if event is not None])
            plain[others[there]] = True
            packed, messages = packed[plain], [message for message, kept in zip(messages, plain, strict=True) if kept]
        packed["action"] = 0
        written = np.array([message.timestamp()[1] for message in messages], np.int64)
        return packed[packed["ts"] <= written + self._max_future_ms]


class _StoppedError(Exception):
    """It was told to stop while it waited for a schema."""


def _decoded(value: bytes) -> Behavior | None:
    try:
        return decode_behavior(value)
    except DECODE_ERRORS:
        return None


def _json(formats: Formats, topic: str, value: bytes) -> bytes:
    """Return a value as JSON; empty, which is no behaviour, for one that cannot be read."""
    try:
        return formats.to_json(topic, value)
    except DECODE_ERRORS:
        return b""
