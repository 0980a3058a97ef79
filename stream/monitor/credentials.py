"""Translates section `kafka` of the settings, librdkafka properties, into Faust's settings."""

import ssl
from collections.abc import Mapping
from typing import Any

import faust
from yarl import URL

from stream.errors import SettingsError

_TLS = {
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "enable.ssl.certificate.verification",
    "ssl.endpoint.identification.algorithm",
}
_SASL = {"sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"}
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


def faust_connection(kafka: Mapping[str, str]) -> dict[str, Any]:
    """Return Faust's settings for the same connection. Properties that only tune librdkafka have no counterpart.

    Raises:
        SettingsError: naming what Faust's client cannot do, or a file that cannot be used.
    """
    protocol = kafka.get("security.protocol", "PLAINTEXT").upper()
    if protocol not in _PROTOCOLS:
        raise SettingsError(f"kafka.security.protocol is none of {', '.join(_PROTOCOLS)}")
    secured = {key for key in kafka if key.startswith(("ssl.", "sasl.", "https.", "enable.ssl", "enable.sasl"))}
    if unknown := secured - _TLS - _SASL:
        raise SettingsError(
            f"the monitor cannot use kafka.{', kafka.'.join(sorted(unknown))}: its client (aiokafka) takes"
            f" certificates from files and sasl.mechanism {', '.join(_MECHANISMS)}. Leave them out for the monitor, or"
            " give it a listener of its own"
        )
    options: dict[str, Any] = {"broker": [URL(f"kafka://{server.strip()}") for server in _servers(kafka)]}
    context = _context(kafka) if protocol.endswith("SSL") else None
    if protocol.startswith("SASL"):
        mechanism = kafka.get("sasl.mechanism", kafka.get("sasl.mechanisms", "GSSAPI"))
        if mechanism not in _MECHANISMS:
            raise SettingsError(f"the monitor can use kafka.sasl.mechanism {', '.join(_MECHANISMS)}, not {mechanism}")
        options["broker_credentials"] = faust.SASLCredentials(
            username=kafka.get("sasl.username"),
            password=kafka.get("sasl.password"),
            ssl_context=context,
            mechanism=mechanism,
        )
    elif context is not None:
        options["broker_credentials"] = faust.SSLCredentials(context)
    if instance := kafka.get("group.instance.id"):
        options["consumer_group_instance_id"] = instance
    return options


def _servers(kafka: Mapping[str, str]) -> list[str]:
    servers = [server for server in kafka.get("bootstrap.servers", "").split(",") if server.strip()]
    if not servers:
        raise SettingsError("kafka.bootstrap.servers is empty: write it as HOST:PORT,HOST:PORT")
    # librdkafka takes addresses with the protocol before them.
    return [server.rpartition("://")[2] for server in servers]


def _context(kafka: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=kafka.get("ssl.ca.location"))
        if certificate := kafka.get("ssl.certificate.location"):
            context.load_cert_chain(certificate, kafka.get("ssl.key.location"), kafka.get("ssl.key.password"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            "TLS cannot be set up from kafka.ssl.ca.location, kafka.ssl.certificate.location and"
            f" kafka.ssl.key.location: {error}"
        ) from None
    if kafka.get("ssl.endpoint.identification.algorithm", "https") == "none":
        context.check_hostname = False
    if kafka.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
