"""Serves a process's metrics and health over HTTP."""

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from stream.errors import SettingsError
from stream.runtime.addresses import host_and_port
from stream.runtime.health import Health
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.metrics")


class MetricsServer:
    """Serves `/metrics` and `/health` in a thread of its own; does nothing where the address is empty.

    `/health` answers 200 or 503, with the reason as JSON, and notes on parts that fail while the rest works.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        registry: the job's metrics.
        health: the job's health.

    Raises:
        SettingsError: when the address is malformed or taken.
    """

    def __init__(self, address: str, registry: CollectorRegistry, health: Health) -> None:
        self._server: WSGIServer | None = None
        if not address:
            return
        metrics = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ.get("PATH_INFO") != "/health":
                return metrics(environ, start_response)  # type: ignore[no-any-return]
            trouble = health.trouble()
            start_response("503 Service Unavailable" if trouble else "200 OK", [("Content-Type", "application/json")])
            said = {"healthy": not trouble, "trouble": trouble, "notes": health.notes}
            return [json.dumps(said).encode()]

        try:
            self._server = make_server(*host_and_port(address), app, _Threading, handler_class=_Quiet)
        except (OSError, ValueError, OverflowError) as error:
            raise SettingsError(f"metrics cannot be served at {address!r}: {error}; write it as HOST:PORT") from None
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @property
    def port(self) -> int:
        """The port it listens on; 0 when it does not."""
        return self._server.server_port if self._server else 0

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Threading(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, *whose: object) -> None:
        """Log in one line that a client went away, or what else went wrong."""
        log(_logger, "request_failed", logging.WARNING, client=whose[-1], error=repr(sys.exc_info()[1]))


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
