"""Where the gateway listens: its socket, TLS, and what is counted of every answer."""

import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from stream.errors import SettingsError
from stream.gateway.metrics import GatewayMetrics
from stream.runtime.addresses import host_and_port
from stream.settings import GatewaySettings

_BACKLOG = 2048
_CLOSE_S = 5
_PATHS = {"/v1/rank", "/v1/click", "/v1/behaviors", "/v1/health", "/docs", "/docs/openapi.json"}

App = Callable[[Any, Any, Any], Awaitable[None]]


class Server(uvicorn.Server):
    """uvicorn, but for signals: it would stop listening at once, and new calls would get no answer."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the job."""
        yield


def listen(address: str) -> socket.socket:
    """Return a socket that listens on HOST:PORT.

    Raises:
        SettingsError: when that is not possible.
    """
    try:
        host, port = host_and_port(address)
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"gateway.address {address!r} cannot be served: {error}; choose another") from None


def configuration(settings: GatewaySettings) -> uvicorn.Config:
    """Return uvicorn's configuration, for an application that is set later.

    Raises:
        SettingsError: when certificate or key cannot be used.
    """
    certificate, key = settings.certificate or None, settings.certificate_key or None
    if certificate:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        except OSError as error:
            raise SettingsError(f"gateway.certificate and gateway.certificate_key cannot be used: {error}") from None
    return uvicorn.Config(
        "",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_CLOSE_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


def measured(app: App, metrics: GatewayMetrics) -> App:
    """Return an application that counts its answers and how long they take."""

    async def answer(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        began, status = time.perf_counter(), 0
        path = scope["path"] if scope["path"] in _PATHS else "other"

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, note)
        finally:
            metrics.answers.labels(path, str(status)).inc()
            metrics.seconds.labels(path).observe(time.perf_counter() - began)

    return answer
