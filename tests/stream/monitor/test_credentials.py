"""librdkafka's words for a connection, in Faust's; what Faust's client cannot do is refused by name."""

import ssl
from pathlib import Path

import faust
import pytest

from stream.errors import SettingsError
from stream.monitor.credentials import faust_connection


def test_a_plain_connection() -> None:
    options = faust_connection({"bootstrap.servers": "one:9092, PLAINTEXT://two:9093", "linger.ms": "5"})
    assert [str(url) for url in options.pop("broker")] == ["kafka://one:9092", "kafka://two:9093"]
    assert options == {}


def test_scram_over_tls() -> None:
    options = faust_connection(
        {
            "bootstrap.servers": "one:9092",
            "security.protocol": "sasl_ssl",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "samstream",
            "sasl.password": "secret",
            "ssl.endpoint.identification.algorithm": "none",
        }
    )
    credentials = options["broker_credentials"]
    assert isinstance(credentials, faust.SASLCredentials)
    assert (credentials.username, credentials.password) == ("samstream", "secret")
    assert (credentials.protocol.value, credentials.mechanism.value) == ("SASL_SSL", "SCRAM-SHA-512")
    assert credentials.ssl_context is not None
    assert credentials.ssl_context.verify_mode == ssl.CERT_REQUIRED
    assert not credentials.ssl_context.check_hostname


def test_tls_alone_verifies_the_broker() -> None:
    credentials = faust_connection({"bootstrap.servers": "one:9092", "security.protocol": "SSL"})["broker_credentials"]
    assert isinstance(credentials, faust.SSLCredentials)
    assert credentials.context.check_hostname


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}, "OAUTHBEARER"),
        ({"security.protocol": "SASL_PLAINTEXT"}, "GSSAPI"),
        ({"security.protocol": "SSL", "ssl.keystore.location": "x"}, r"kafka\.ssl\.keystore\.location"),
        ({"security.protocol": "SSL", "ssl.ca.location": "/nowhere.pem"}, r"ssl\.ca\.location"),
        ({"security.protocol": "TLS"}, r"kafka\.security\.protocol"),
        ({"bootstrap.servers": ""}, r"kafka\.bootstrap\.servers"),
    ],
)
def test_what_cannot_be_used_is_named(properties: dict[str, str], named: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=named) as refused:
        faust_connection({"bootstrap.servers": "one:9092", "sasl.password": "secret"} | properties)
    assert "secret" not in str(refused.value)
