"""A schema registry in memory that speaks Confluent's HTTP API, as far as serializers and readers use it."""

import base64
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_TYPE = "application/vnd.schemaregistry.v1+json"


class RegistryStub:
    """Serves on a port of its own; `stop` and `start` take it away and bring it back, with what it knows.

    Args:
        credentials: `user:password` that callers must give; empty for none.
        certificate: chain and private key, PEM, for HTTPS; None for HTTP.
    """

    def __init__(self, *, credentials: str = "", certificate: Path | None = None) -> None:
        self._credentials = credentials
        self._certificate = certificate
        self._schemas: list[dict[str, Any]] = []
        self._subjects: dict[str, list[int]] = {}
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.asked: Counter[str] = Counter()
        """Path → how often it was asked for."""
        self.failing: tuple[int, bytes] | None = None
        """Status and body of every answer; None for right ones."""

    @property
    def url(self) -> str:
        """Where it is, also while it is stopped."""
        return f"http{'s' if self._certificate else ''}://localhost:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to serve."""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # a connection that is kept would outlive `stop`

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: Mapping[str, Any] | None) -> None:
                status, answer = stub.failing or stub._checked(self.path, self.headers.get("Authorization", ""), body)
                self.send_response(status)
                self.send_header("Content-Type", _TYPE)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("localhost", self._port), Handler)
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Be away: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def register(
        self, subject: str, schema: str, kind: str = "AVRO", references: list[dict[str, Any]] | None = None
    ) -> int:
        """Register a schema as `POST /subjects/SUBJECT/versions` does; returns its id."""
        entry = {"schema": schema, "schemaType": kind, "references": references or []}
        if entry not in self._schemas:
            self._schemas.append(entry)
        number = self._schemas.index(entry) + 1
        versions = self._subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def _checked(self, path: str, authorization: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        if self._credentials and authorization != f"Basic {base64.b64encode(self._credentials.encode()).decode()}":
            status, answer = 401, {"error_code": 401, "message": "Unauthorized"}
        else:
            status, answer = self._route(path, body)
        return status, json.dumps(answer).encode()

    def _route(self, path: str, body: Mapping[str, Any] | None) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(path)
        self.asked[parts.path] += 1
        serialized = parse_qs(parts.query).get("format") == ["serialized"]
        if body is not None and (post := re.fullmatch(r"/subjects/([^/]+)/versions", parts.path)):
            references = list(body.get("references") or [])
            number = self.register(post[1], body["schema"], body.get("schemaType", "AVRO"), references)
            return 200, {"id": number} | self._described(number, serialized=False)
        if found := re.fullmatch(r"/schemas/ids/(\d+)", parts.path):
            number = int(found[1])
            if not 0 < number <= len(self._schemas):
                return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
            return 200, self._described(number, serialized=serialized)
        if found := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)", parts.path):
            subject, version = found[1], int(found[2])
            if subject not in self._subjects:
                return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
            if not 0 < version <= len(self._subjects[subject]):
                return 404, {"error_code": 40402, "message": f"Version {version} not found."}
            number = self._subjects[subject][version - 1]
            described = self._described(number, serialized=serialized)
            return 200, {"subject": subject, "version": version, "id": number} | described
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _described(self, number: int, *, serialized: bool) -> dict[str, Any]:
        """Return a schema as the registry does: Avro without its type; Protobuf serialized where that is asked for."""
        entry = self._schemas[number - 1]
        told: dict[str, Any] = {"schema": entry["schema"]}
        if entry["schemaType"] != "AVRO":
            told["schemaType"] = entry["schemaType"]
        if entry["references"]:
            told["references"] = entry["references"]
        if entry["schemaType"] == "PROTOBUF" and not serialized:
            # Files are registered serialized here; a real registry makes text of them unless told otherwise.
            told["schema"] = 'syntax = "proto3"; // text'
        return told
