"""Classifies librdkafka's connection errors, and decides when to give up.

librdkafka retries for ever, whatever is wrong, and reports errors only to its `error_cb`. A broker that is away is
waited for; a wrong password or an untrusted certificate stays wrong. A single refusal proves little, though: a
connection that is reset during the TLS handshake, as when a broker is killed, looks the same.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError

from stream.errors import KafkaClientError, KafkaSilentError
from stream.kafka.outage import Outage, outage_of
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.kafka")

_REFUSED_S = 20.0
"""How long refusals go on before a client that worked before gives up."""
_PAUSE_S = 15.0
"""Refusals that are further apart are not counted as one; librdkafka retries at least every 10 s."""
_SAME_S = 10.0
_BROKERLESS = 2
"""Statistics in a row without any broker after which a client is lost; while it bootstraps again, it has one."""
STATISTICS_MS = 5000

_CREDENTIALS = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}
_PERMISSIONS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_TOPICS = {
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
}
"""What a topic's absence is reported as, for each partition again and again; `topic_watch` tells it once."""


def is_unknown_topic(error: KafkaError) -> bool:
    """Return whether an error says that there is no such topic or partition."""
    return error.code() in _TOPICS


def is_final(error: KafkaError) -> bool:
    """Return whether an error lasts: Kafka forbids what was asked, or has fenced this client."""
    return bool(error.fatal()) or error.code() in _PERMISSIONS | {KafkaError._FATAL}


def error_text(error: KafkaError) -> str:
    """Return the text of an error in one line, without the duration of a connection's state."""
    return re.sub(r" \(after \d+ms in state .*\)$", "", " ".join(error.str().split()))


class ConnectionHealth:
    """The connection errors of one client; to be given to it as `error_cb`.

    Args:
        kafka: librdkafka properties; error messages name the address.
        log_errors: log refusals, each at most every 10 s, and report what passes to the process's `Outage`.
        outage: report to this one instead.
        clock: monotonic, seconds.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        *,
        log_errors: bool = True,
        outage: Outage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._where = kafka.get("bootstrap.servers", "")
        self._outage = (outage or outage_of(kafka)) if log_errors else None
        self._clock = clock
        self._last_error: KafkaError | None = None
        self._refusal: KafkaError | None = None
        self._since = 0.0
        self._last = 0.0
        self._only_closed = False
        self._brokerless = 0
        self._logged: dict[str, float] = {}

    def __call__(self, error: KafkaError) -> None:
        """Take note of an error."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._only_closed = True  # all that librdkafka reports of a connection that is closed without an error
            if self._outage is not None:
                self._outage.suspect(error_text(error))
            return
        self._last_error = error
        if is_final(error) or error.code() in _CREDENTIALS or _is_tls(error):
            self._log(error)
            now = self._clock()
            if self._refusal is None or now - self._last > _PAUSE_S:
                self._since = now
            self._refusal, self._last = error, now
        elif self._outage is not None and not is_unknown_topic(error):
            self._outage.fail(error_text(error))

    def note_statistics(self, text: str) -> None:
        """Take librdkafka's statistics; to be given to the client as `stats_cb`.

        A client that is told of no brokers forgets those that it knows, and may never find any again (librdkafka 5301).
        """
        known = '"source":"learned"' in text or '"source":"configured"' in text
        self._brokerless = 0 if known else self._brokerless + 1

    @property
    def lost(self) -> bool:
        """Whether the client knows no broker any more, so that it will never hear of Kafka again."""
        return self._brokerless >= _BROKERLESS

    @property
    def fatal(self) -> str:
        """The fatal error of this client, such as being fenced by another one with its id; empty if there is none."""
        error = self._refusal
        return error_text(error) if error is not None and (error.fatal() or error.code() == KafkaError._FATAL) else ""

    @property
    def refused(self) -> bool:
        """Whether Kafka refuses this client: the last refusal came after the last answer."""
        return self._refusal is not None

    def mark_reachable(self) -> None:
        """Note that Kafka has answered this client."""
        self._refusal = None
        if self._outage is not None:
            self._outage.answer()

    def mark_waiting(self, records: int) -> None:
        """Note that Kafka is slow to acknowledge so many records."""
        if self._outage is not None:
            self._outage.fail(f"{records} records wait to be acknowledged")

    def check(self) -> None:
        """Check that Kafka does not refuse this client for good.

        Raises:
            KafkaClientError: when it does: at once when forbidden or fenced, else after 20 s of refusals.
            KafkaSilentError: when this client has forgotten all brokers.
        """
        if self.lost:
            raise KafkaSilentError(f"a client of the Kafka at {self._where!r} has forgotten all brokers. Start again")
        if self._refusal is not None and (is_final(self._refusal) or self._last - self._since >= _REFUSED_S):
            raise self.failure()

    def failure(self) -> KafkaClientError:
        """Return the error that says what is wrong and what to do."""
        if self._refusal is not None:
            why = error_text(self._refusal)
            return KafkaClientError(
                f"the Kafka at {self._where!r} refuses this client: {why}. {_advice(self._refusal)}"
            )
        if self._last_error is not None:
            why = error_text(self._last_error)
        elif self._only_closed:
            why = "it closes connections without a word, as a listener of another kafka.security.protocol does"
        else:
            why = "it does not answer"
        return KafkaSilentError(
            f"no use of the Kafka at {self._where!r}: {why}. Is it running, and do kafka.bootstrap.servers and"
            " kafka.security.protocol fit its listener?"
        )

    def _log(self, error: KafkaError) -> None:
        text, now = error_text(error), self._clock()
        if self._outage is not None and now - self._logged.get(text, -_SAME_S) >= _SAME_S:
            if len(self._logged) > 100:
                self._logged.clear()
            self._logged[text] = now
            log(_logger, "kafka_error", logging.WARNING, error=text)


def _is_tls(error: KafkaError) -> bool:
    """Return whether the TLS handshake failed; OpenSSL reports a broker's objection as a failure to receive."""
    return error.code() == KafkaError._SSL or "SSL routines:" in error.str()


def _advice(refusal: KafkaError) -> str:
    if refusal.code() in _CREDENTIALS:
        return (
            "Check kafka.sasl.username, kafka.sasl.password and kafka.sasl.mechanism, and that"
            " kafka.security.protocol fits the listener."
        )
    if _is_tls(refusal):
        return (
            "Check kafka.ssl.ca.location, kafka.ssl.certificate.location where brokers ask for one, that the brokers'"
            " certificates have the names in kafka.bootstrap.servers, and that kafka.security.protocol fits the"
            " listener."
        )
    if refusal.code() in _PERMISSIONS:
        return "Give this user the permission (Kafka's ACLs)."
    return "Start it again."
