"""Apache Kafka with a SASL_SSL and an SSL listener beside the plain one, its certificates, and who may come in."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stream.local.broker import Broker, local_broker
from stream.local.ports import free_port

PASSWORD = "marker-Pa55=word"
"""Of the user `shop`, over SASL."""
WRONG = "marker-wr0ng#word"
KEY_PASSWORD = "marker-key-Pa55word"
"""Of the client's private key."""
MARKER = "marker-"
"""What no process may ever say."""
LISTENERS = ("SASL_SSL", "SSL")


@dataclass(frozen=True, slots=True)
class Secured:
    """A running broker and the ports of its listeners; `SSL` asks for a client certificate."""

    broker: Broker
    directory: Path
    ports: dict[str, int]
    properties: dict[str, object]

    def address(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def sasl(self, *, password: str = PASSWORD, ca: str = "ca") -> dict[str, str]:
        """Properties that come in over SASL_SSL, unless told otherwise."""
        return {
            "bootstrap.servers": self.address("SASL_SSL"),
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "shop",
            "sasl.password": password,
            "ssl.ca.location": str(self.directory / f"{ca}.pem"),
        }

    def mutual(self) -> dict[str, str]:
        """Properties that come in by a certificate."""
        return {
            "bootstrap.servers": self.address("SSL"),
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.directory / "ca.pem"),
            "ssl.certificate.location": str(self.directory / "client.pem"),
            "ssl.key.location": str(self.directory / "client.key"),
            "ssl.key.password": KEY_PASSWORD,
        }

    def change_password(self, password: str) -> None:
        """Let the user in by another password from the broker's next start on."""
        self.properties[_JAAS] = _logins(password)


@contextmanager
def secured_broker(directory: Path) -> Iterator[Secured]:
    """Start Apache Kafka with the listeners, under certificates made here."""
    certificates(directory)
    port, first = free_port(), free_port()
    ports = {name: first + number for number, name in enumerate(LISTENERS)}
    public = [f"PLAINTEXT://127.0.0.1:{port}", *(f"{name}://127.0.0.1:{ports[name]}" for name in LISTENERS)]
    properties: dict[str, object] = {
        "listeners": ",".join([*public, f"CONTROLLER://127.0.0.1:{port + 1}"]),
        "advertised.listeners": ",".join(public),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
        "sasl.enabled.mechanisms": "PLAIN",
        _JAAS: _logins(PASSWORD),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": directory / "server-chain.pem",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": directory / "ca.pem",
        "listener.name.ssl.ssl.client.auth": "required",
    }
    with local_broker("kafka", directory / "broker", port, properties=properties) as broker:
        yield Secured(broker, directory, ports, properties)


_JAAS = "listener.name.sasl_ssl.plain.sasl.jaas.config"


def _logins(password: str) -> str:
    return f'org.apache.kafka.common.security.plain.PlainLoginModule required user_shop="{password}";'


def certificates(directory: Path) -> None:
    """Make `ca.pem`, `other.pem` (another authority), and what `ca` vouches for: the server's and the client's."""

    def openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr

    def signed(name: str, *protection: str) -> None:
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            "request",
            *protection,
        )
        openssl(
            *("x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"),
            *("-extfile", "names", "-out", f"{name}.pem"),
        )

    for authority in ("ca", "other"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={authority}"),
            *("-keyout", f"{authority}.key", "-out", f"{authority}.pem"),
        )
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signed("server", "-nodes")
    signed("client", "-passout", f"pass:{KEY_PASSWORD}")
    chain = "".join((directory / name).read_text() for name in ("server.key", "server.pem", "ca.pem"))
    (directory / "server-chain.pem").write_text(chain)


def as_environment(kafka: dict[str, str]) -> dict[str, str]:
    """Return the properties as environment variables, and none of the settings that this process has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAMSTREAM_")}
    return kept | {f"SAMSTREAM_KAFKA__{key.upper().replace('.', '_')}": value for key, value in kafka.items()}
