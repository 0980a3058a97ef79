"""Trouble with Kafka as one process has it: told once when it begins, every 30 s with a count, and when it is over.

Every client of a process meets the same trouble, each many times a second; all of them report to one `Outage` for each
`bootstrap.servers`, which is there for as long as one of them is.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary, ref

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.kafka.client_log import ClientLog
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.kafka")

RECONNECT = {
    # librdkafka from 2.10 on bootstraps again while all brokers are away, at this pace.
    "reconnect.backoff.ms": "200",
    "reconnect.backoff.max.ms": "3000",
}
"""Defaults of every client: back off up to seconds, and be back within seconds. A client of Apache Kafka waits for half
of the first pause before it uses the first connection, too; four that find no broker take 2% of a core at this pace."""

_TELL_S = 30.0
_WATCH_S = 3.0
_PROBE_S = 1.0


class Outage:
    """What the clients of a process report of one Kafka, and the lines that come of it.

    It is over once Kafka has answered and no error came for a while: of several brokers, one may answer and another
    still be away.

    Args:
        where: the address that the lines name.
        quiet_s: how long no error must have come; longer than clients pause between two tries.
        clock: monotonic, seconds.
        begun: called when trouble, or a suspicion of it, begins: from then on `tick` must be called now and then.
    """

    def __init__(
        self,
        where: str,
        *,
        quiet_s: float = 6.0,
        clock: Callable[[], float] = time.monotonic,
        begun: Callable[["Outage"], None] = lambda _: None,
    ) -> None:
        self._where = where
        self._quiet_s = quiet_s
        self._clock = clock
        self._begun = begun
        self._lock = threading.RLock()
        self._began: float | None = None
        self._answered_at: float | None = None
        self._suspicion = ""
        self._followed = False
        self._errors = self._errors_told = 0
        self._error = ""
        self._failed_at = self._told_at = 0.0

    @property
    def unanswered(self) -> bool:
        """Whether an error, or a suspicion, has come since Kafka last answered."""
        return bool(self._suspicion) or (self._began is not None and self._answered_at is None)

    def fail(self, error: str) -> None:
        """Take note of an error of any client."""
        with self._lock:
            now = self._clock()
            self._error, self._failed_at, self._answered_at, self._suspicion = error, now, None, ""
            self._errors += 1
            if self._began is None:
                self._began = self._told_at = now
                self._errors_told = 1
                log(_logger, "kafka_errors", logging.WARNING, at=self._where, error=error)
                self._begin()

    def suspect(self, error: str) -> None:
        """Take note of what is trouble only if Kafka does not answer: idle connections are closed in good health."""
        with self._lock:
            if self._began is not None:
                self._errors += 1
            elif not self._suspicion:
                self._suspicion = error
                self._begin()

    def answer(self) -> None:
        """Take note that Kafka has answered a client."""
        if self.unanswered:
            with self._lock:
                self._suspicion = ""
                if self._began is not None:
                    self._answered_at = self._clock()

    def no_answer(self) -> None:
        """Take note that Kafka did not answer when it was asked because of a suspicion."""
        with self._lock:
            if self._suspicion:
                self.fail(self._suspicion)

    def tick(self) -> bool:
        """Tell what is to be told by now; returns whether to go on calling."""
        with self._lock:
            if self._began is None and not self._suspicion:
                self._followed = False
                return False
            if self._began is None:
                return True
            now = self._clock()
            if self._answered_at is not None and now - self._failed_at >= self._quiet_s:
                seconds = self._answered_at - self._began
                log(
                    _logger,
                    "kafka_recovered",
                    logging.WARNING,
                    at=self._where,
                    seconds=round(seconds, 1),
                    errors=self._errors,
                )
                self._began, self._errors, self._followed = None, 0, False
                return False
            if now - self._told_at >= _TELL_S:
                log(
                    _logger,
                    "kafka_errors_continue",
                    logging.WARNING,
                    at=self._where,
                    seconds=round(now - self._began),
                    errors=self._errors - self._errors_told,
                    error=self._error,
                )
                self._told_at, self._errors_told = now, self._errors
            return True

    def _begin(self) -> None:
        if not self._followed:
            self._followed = True
            self._begun(self)


_lock = threading.Lock()
_outages: WeakValueDictionary[str, Outage] = WeakValueDictionary()


def outage_of(kafka: Mapping[str, str]) -> Outage:
    """Return the one outage that all clients of this process with these `bootstrap.servers` report to.

    It is forgotten with the last of them: keep it for as long as what was reported to it counts.
    """
    where = kafka.get("bootstrap.servers", "")
    with _lock:
        outage = _outages.get(where)
        if outage is None:
            most_ms = (RECONNECT | dict(kafka))["reconnect.backoff.max.ms"]
            # librdkafka varies its pauses by up to a half.
            quiet_s = 2 * float(most_ms) / 1000 if most_ms.isdecimal() else 6.0
            outage = Outage(where, quiet_s=quiet_s, begun=lambda begun: _watch(ref(begun), kafka))
            _outages[where] = outage
        return outage


def _watch(watched: ref[Outage], kafka: Mapping[str, str]) -> None:
    """Follow trouble in a thread of its own: no client need come by while it lasts, or when it is over."""

    def follow() -> None:
        # With the last client it has nobody to concern any more: it is told no further.
        while (outage := watched()) is not None and outage.tick():
            if outage.unanswered:
                # Another one each time: it may be told of no brokers, and forget all that it knows.
                client = AdminClient({**RECONNECT, **kafka, "log_level": "0"}, logger=ClientLog())
                try:
                    client.list_topics(timeout=_PROBE_S)
                    outage.answer()
                except KafkaException:
                    outage.no_answer()
                # With `debug`, the client talks whatever its level is; polling it takes these lines away.
                client.poll(0)
            del outage
            time.sleep(_WATCH_S)

    threading.Thread(target=follow, name="kafka-trouble", daemon=True).start()
