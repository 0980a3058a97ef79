"""Open-loop load over HTTP: the same users as `LoadGenerator`'s ask a gateway, on schedule."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from stream.bench.harness.load import SLOTS, LoadGenerator
from stream.errors import SimulationError
from stream.schema.events import Candidate, RequestKey

_TIMEOUT_S = 20.0
_CHECK_S = 0.25
_EARLY_S = 0.0015
"""An event loop wakes up to a millisecond late: that would count as latency."""


@dataclass(slots=True)
class HttpResult:
    """The result of one run: milliseconds from the scheduled time of each request to its answer.

    `failed` requests got another answer than the model's, or none; they count with the time until that was known.
    """

    latencies_ms: list[float] = field(default_factory=list)
    failed: int = 0


def run_over_http(load: LoadGenerator, url: str, rate: float, seconds: float, check: Callable[[], None]) -> HttpResult:
    """Send `rate` requests a second (Poisson arrivals) for `seconds` to a gateway, then wait for the last answers.

    Clicks and other behaviours go through the generator's Kafka client, as in its own runs.

    Args:
        load: draws the requests.
        url: the gateway's address, such as `http://127.0.0.1:8080`.
        rate: mean requests a second.
        seconds: length of the run.
        check: called a few times a second; what it raises ends the run.

    Raises:
        SimulationError: when no request is answered by the model.
    """
    result = asyncio.run(_run(load, url, rate, seconds, check))
    if result.failed == len(result.latencies_ms):
        raise SimulationError(f"no request at {rate:g} a second was answered by a model within {_TIMEOUT_S:.0f} s")
    return result


async def _run(load: LoadGenerator, url: str, rate: float, seconds: float, check: Callable[[], None]) -> HttpResult:
    result, loop = HttpResult(), asyncio.get_running_loop()
    timeout, connector = aiohttp.ClientTimeout(total=_TIMEOUT_S), aiohttp.TCPConnector(limit=0)
    visits = list(load.schedule(rate, seconds))
    began, next_check = time.time(), 0.0
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session, asyncio.TaskGroup() as tasks:

        async def ask(due: float, user: str, candidates: list[Candidate]) -> None:
            body: dict[str, Any] = {
                "user": user,
                "slots": SLOTS,
                "candidates": [{"item": each.item, "category": each.category} for each in candidates],
            }
            try:
                async with session.post(f"{url}/v1/rank", json=body) as reply:
                    answer = await reply.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError):
                answer = {}
            received = time.time()
            result.latencies_ms.append(1000 * (received - due))
            if answer.get("ranked_by") != "model":
                result.failed += 1
                return
            shown = [each["item"] for each in answer["items"][: answer["slots"]]]
            for at, item in load.draw_clicks(shown, received):
                loop.call_later(at - received, load.click, RequestKey(user, answer["request_id"]), item)

        for at, user, candidates, seen in visits:
            due = began + at
            await _sleep_until(due)
            for item in seen:
                load.send_behavior(user, item)
            tasks.create_task(ask(due, user, candidates))
            if due >= next_check:
                next_check = due + _CHECK_S
                check()
    return result


async def _sleep_until(due: float) -> None:
    """Sleep until just before a moment (s since the epoch), then let others work until it comes."""
    while (left := due - time.time()) > 0:
        await asyncio.sleep(max(0.0, left - _EARLY_S))
