"""Gateways in processes of their own, asked over real HTTP; and scores that a test gives by hand."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from email.message import Message
from typing import Any, NamedTuple

import pytest

from stream.kafka.producer import ReliableProducer
from stream.local.ports import free_port
from stream.schema.events import Impression, Score, Spent, Withdrawal, decode_request, encode_json
from tests.e2e.harness import Harness, wait_for

NAME = "gateway"


class Reply(NamedTuple):
    """An answer over HTTP."""

    status: int
    headers: "Message[str, str]"
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


class HttpGateway:
    """A gateway of a harness, under a name of its own."""

    def __init__(self, harness: Harness, *settings: str, name: str = NAME, port: int = 0, tls: str = "") -> None:
        pytest.importorskip("litestar", reason="litestar is not installed: pip install -e '.[gateway]'")
        self.harness, self.name, self.port = harness, name, port or free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._context = ssl.create_default_context(cafile=tls) if tls else None
        self._settings = [f"gateway.address=127.0.0.1:{self.port}", *settings]
        self._threads = ThreadPoolExecutor(64)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        flags = [word for setting in self._settings for word in ("--set", setting)]
        self.harness.processes.start(self.name, "gateway", *flags)
        wait_for(self.answers, f"{self.name} to answer", processes=self.harness.processes)

    def answers(self) -> bool:
        """Say whether anybody answers there."""
        try:
            self.get("/v1/health")
        except (OSError, urllib.error.URLError):
            return False
        return True

    def get(self, path: str) -> Reply:
        return self._call(urllib.request.Request(self.url + path))

    def post(self, path: str, body: Any, *, kind: str = "application/json", key: str = "") -> Reply:
        """Post bytes, or anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {key}"} if key else {})
        return self._call(urllib.request.Request(self.url + path, data=content, headers=headers))

    def rank(self, user: str, request_id: str, items: int = 4, slots: int = 2) -> Reply:
        return self.post("/v1/rank", question(user, request_id, items, slots))

    def later(self, call: Callable[[], Reply]) -> Future[Reply]:
        """Call in a thread."""
        return self._threads.submit(call)

    def _call(self, request: urllib.request.Request) -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
                return Reply(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.headers, error.read())


def question(user: str, request_id: str, items: int = 4, slots: int = 2) -> dict[str, Any]:
    candidates = [{"item": f"item-{number}", "category": f"category-{number}"} for number in range(items)]
    return {"user": user, "request_id": request_id, "candidates": candidates, "slots": slots}


def asked(harness: Harness) -> list[Impression | Withdrawal]:
    """Return what is in `impressions`, in the order of each user."""
    return [decode_request(value) for value in harness.read(harness.topics.impressions)]


def give_score(harness: Harness, impression: Impression, version: int = 1) -> None:
    """Answer as a worker would: the last candidate is the best."""
    count = len(impression.candidates)
    score = Score(
        impression.request_id,
        impression.user,
        impression.ts,
        "sam",
        1,
        version,
        [candidate.item for candidate in impression.candidates],
        [(index + 1) / (count + 1) for index in range(count)],
        list(range(count))[::-1],
        min(impression.slots, count),
        0,
        Spent(0.0, 0.0, 0.0),
    )
    sender = ReliableProducer(harness.settings.kafka)
    sender.send(harness.topics.scores, encode_json(score), key=impression.user)
    sender.flush()
