"""What a client hears of its connections, and when waiting is of no use.

librdkafka tries again for ever, whatever is wrong, and says so only to its `error_cb`. A broker that is away comes back
and is waited for; a password that is wrong, or a certificate that nobody vouches for, stays so. A single refusal means
little, though: a connection that is reset while TLS is agreed on, as when a broker is killed, looks like one.
"""

import logging
import re
import time
from collections.abc import Mapping

from confluent_kafka import KafkaError

from stream.errors import KafkaClientError
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.kafka")

_REFUSED_S = 20.0
"""So long refusals go on before a client that works already takes them for the last word."""
_PAUSE_S = 15.0
"""Refusals that are further apart have nothing to do with each other; librdkafka tries every 10 s at least."""
_SAME_S = 10.0

_CREDENTIALS = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}
_PERMISSIONS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


def is_final(error: KafkaError) -> bool:
    """Say whether Kafka forbids what was asked, or has fenced this client: no wait mends that."""
    return bool(error.fatal()) or error.code() in _PERMISSIONS | {KafkaError._FATAL}


def said(error: KafkaError) -> str:
    """Return the text of an error in one line, without the time spent in some state of the connection."""
    return re.sub(r" \(after \d+ms in state .*\)$", "", " ".join(error.str().split()))


class Hearing:
    """The `error_cb` of one client, and what follows from what it heard.

    Args:
        kafka: librdkafka properties; the address is what errors name.
        log_errors: log what is heard, the same thing at most every 10 s.
    """

    def __init__(self, kafka: Mapping[str, str], *, log_errors: bool = True) -> None:
        self._where = kafka.get("bootstrap.servers", "")
        self._log_errors = log_errors
        self._heard: KafkaError | None = None
        self._refusal: KafkaError | None = None
        self._since = 0.0
        self._last = 0.0
        self._closed = False
        self._logged: dict[str, float] = {}

    def __call__(self, error: KafkaError) -> None:
        """Take note of an error."""
        self._log(error)
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._closed = True  # the only thing heard of a connection that is closed without a word
            return
        self._heard = error
        if is_final(error) or error.code() in _CREDENTIALS or _is_tls(error):
            now = time.monotonic()
            if self._refusal is None or now - self._last > _PAUSE_S:
                self._since = now
            self._refusal, self._last = error, now

    @property
    def fatal(self) -> str:
        """What ended this client for good, such as another one with its id; empty while nothing did."""
        error = self._refusal
        return said(error) if error is not None and (error.fatal() or error.code() == KafkaError._FATAL) else ""

    @property
    def refused(self) -> bool:
        """Whether Kafka has refused this client, and has not answered it since."""
        return self._refusal is not None

    def answered(self) -> None:
        """Take note that Kafka answers this client."""
        self._refusal = None

    def check(self) -> None:
        """See that Kafka does not refuse this client for good.

        Raises:
            KafkaClientError: when it does: forbidden or fenced at once, else when refusals have gone on for 20 s.
        """
        if self._refusal is not None and (is_final(self._refusal) or self._last - self._since >= _REFUSED_S):
            raise self.failure()

    def failure(self) -> KafkaClientError:
        """Return the error that says what is wrong and what to do."""
        if self._refusal is not None:
            return KafkaClientError(
                f"the Kafka at {self._where!r} refuses this client: {said(self._refusal)}. {_advice(self._refusal)}"
            )
        closed = "it closes connections without a word, as a listener of another kafka.security.protocol does"
        why = said(self._heard) if self._heard else closed if self._closed else "nothing was heard of it"
        return KafkaClientError(
            f"no use of the Kafka at {self._where!r}: {why}. Is it running, and do kafka.bootstrap.servers and"
            " kafka.security.protocol fit its listener?"
        )

    def _log(self, error: KafkaError) -> None:
        text, now = said(error), time.monotonic()
        if self._log_errors and now - self._logged.get(text, -_SAME_S) >= _SAME_S:
            if len(self._logged) > 100:
                self._logged.clear()
            self._logged[text] = now
            log(_logger, "kafka_error", logging.WARNING, error=text)


def _is_tls(error: KafkaError) -> bool:
    """Say whether TLS was not agreed on; what the broker objects to comes as a failure to receive, by OpenSSL."""
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
