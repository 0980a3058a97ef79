"""Whether a job makes progress: healthy while it processes records, or none waits; unhealthy when it stalls."""

import threading
import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from stream.runtime.metrics import PREFIX, Totals

_STALLED_S = 30.0


class Health:
    """The health of one job, and the metrics that every job has.

    Args:
        role: what the job is, such as `worker`: the label `role` of these metrics.
        registry: where they are registered.
        clock: monotonic, seconds.
    """

    def __init__(self, role: str, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._role = role
        self._clock = clock
        self._lock = threading.Lock()
        self._done = 0
        self._waiting = 0
        self._reported_at = self._progressed_at = clock()
        self._named: dict[str, str] = {}
        self._totals = Totals()
        self.notes: tuple[str, ...] = ()
        """What is wrong with a part of the job while the rest works; it does not make the job unhealthy."""
        self._records = Counter(f"{PREFIX}records", "Records processed.", ["role"], registry=registry)
        self._lag = Gauge(f"{PREFIX}lag_records", "Records that wait in Kafka.", ["role"], registry=registry)
        self._totals.set(self._records, 0, role)
        self._lag.labels(role).set(0)
        for name, text, value in (
            ("healthy", "1 when there is no stall.", lambda: float(not self.trouble())),
            ("reading_age_seconds", "Seconds since the job last reported.", lambda: self._clock() - self._reported_at),
            (
                "progress_age_seconds",
                "Seconds since a record was processed, or none waited.",
                lambda: self._clock() - self._progressed_at,
            ),
        ):
            Gauge(PREFIX + name, text, ["role"], registry=registry).labels(role).set_function(value)

    def report(self, *, done: int, lag: int) -> None:
        """Report the job's progress; call it at least every few seconds.

        Args:
            done: records processed so far; where records wait and it does not grow, the job stalls.
            lag: records that wait in Kafka.
        """
        with self._lock:
            self._reported_at = self._clock()
            if done > self._done or not lag or not self._waiting:
                self._progressed_at = self._reported_at
            self._done, self._waiting = done, lag
        self._totals.set(self._records, done, self._role)
        self._lag.labels(self._role).set(lag)

    def note(self, notes: Sequence[str]) -> None:
        """Say what is wrong with a part of the job while the rest works; replaces the notes before."""
        self.notes = tuple(notes)

    def report_trouble(self, name: str, trouble: str) -> None:
        """Report trouble of one kind; it lasts until it is reported as empty.

        Args:
            name: which kind, such as `topics`.
            trouble: what is wrong, for a person; empty when it is over.
        """
        with self._lock:
            self._named[name] = trouble

    def trouble(self) -> str:
        """Return what is wrong; empty when the job is healthy."""
        with self._lock:
            if named := [trouble for trouble in self._named.values() if trouble]:
                return "; ".join(named)
            now, lag = self._clock(), self._waiting
            silent_s, stuck_s = now - self._reported_at, now - self._progressed_at
        if silent_s > _STALLED_S:
            return f"no report for {silent_s:.0f} s: it waits for Kafka, or hangs"
        if lag and stuck_s > _STALLED_S:
            return f"{lag} records wait, and none was processed for {stuck_s:.0f} s"
        return ""
