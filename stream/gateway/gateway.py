"""What the gateway does with a request; knows neither HTTP nor a Kafka client."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from stream.gateway.bodies import ClickRequest, RankAnswer, RankedItem, RankRequest, Written
from stream.gateway.checker import EventChecker
from stream.gateway.metrics import GatewayMetrics
from stream.gateway.popularity import Popularity
from stream.gateway.problems import ProblemError
from stream.gateway.requests import Requests, read_identity
from stream.gateway.writer import RecordWriter
from stream.runtime.metrics import Totals
from stream.schema.events import Impression, Score
from stream.settings import Settings

_RETRY_S = 1


class Gateway:
    """Ranks, and writes clicks and behaviours. Everything happens in one event loop.

    Args:
        settings: the configuration.
        checker: makes records of bodies.
        writer: takes them to Kafka.
        metrics: the gateway's.
        requests: what waits and what is remembered.
    """

    def __init__(
        self,
        settings: Settings,
        checker: EventChecker,
        writer: RecordWriter,
        metrics: GatewayMetrics,
        requests: Requests,
    ) -> None:
        self._settings = settings.gateway
        self._window_ms = settings.worker.attribution_window_s * 1000
        self._checker = checker
        self._writer = writer
        self._metrics = metrics
        self._requests = requests
        self._popularity = Popularity()
        self._totals = Totals()
        self._malformed = 0
        self.in_flight = 0
        """Calls that are being answered."""
        self.draining = False
        """Whether it takes nothing new, since it is about to end."""

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a call while it is being answered.

        Raises:
            ProblemError: 503 when the gateway ends, 429 when too many are being answered.
        """
        if self.draining:
            raise ProblemError(503, "this gateway is about to end: ask another one", retry_after_s=_RETRY_S)
        if self.in_flight >= self._settings.max_in_flight:
            text = f"{self.in_flight} requests are being answered (gateway.max_in_flight); this one was not taken"
            raise ProblemError(429, text, retry_after_s=_RETRY_S)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def rank(self, asked: RankRequest) -> RankAnswer:
        """Write an impression and wait for its score; a request that was asked before is not written again.

        Raises:
            ProblemError: 409, 413, 422, 503 or 504.
        """
        impression, record = self._checker.impression(asked)
        outcome = self._requests.known(impression)
        new = outcome is None
        if outcome is None:
            self._writer.check_room()
            outcome = self._requests.ask(impression)
            self._writer.send(record)
        else:
            self._metrics.repeated.inc()
        # Shielded: a caller that hangs up must not end the wait of others who ask the same.
        score = await asyncio.shield(outcome)
        if isinstance(score, Score):
            if new and self._settings.on_timeout == "popularity":
                self._popularity.add(score)
            return _ranked(score)
        if self._settings.on_timeout == "error":
            raise ProblemError(
                504,
                f"no score within {self._settings.deadline_s:g} s (gateway.deadline_s): is a worker running? Request"
                f" {impression.request_id!r} is withdrawn; ask with another request_id",
            )
        by: Literal["popularity", "candidates"] = (
            "popularity" if self._settings.on_timeout == "popularity" else "candidates"
        )
        return _unranked(impression, score, by)

    async def click(self, asked: ClickRequest) -> Written:
        """Write a click and the behaviour that it is; returns when Kafka has both.

        Raises:
            ProblemError: 413, 422 or 503.
        """
        click, records = self._checker.click(asked)
        self._requests.clicked(click.request, click.item, click.ts, self._window_ms)
        await self._writer.write(records)
        return Written(len(records))

    async def behaviors(self, body: bytes, *, lines: bool) -> Written:
        """Write one behaviour in JSON, or several in NDJSON (`lines`); returns when Kafka has all.

        Raises:
            ProblemError: 400, 413, 422 or 503.
        """
        records = self._checker.behaviors(body) if lines else [self._checker.behavior(body)]
        await self._writer.write(records)
        return Written(len(records))

    def withdraw(self, impression: Impression) -> list[int]:
        """Write that a request was not answered by its score; returns the order of its candidates that it gets."""
        self._metrics.withdrawn.inc()
        with suppress(ProblemError):  # then the gateway ends, and says why
            self._writer.send(self._checker.withdrawal(impression))
        # Nothing is known unless `gateway.on_timeout` wants it: then this is the candidates' own order.
        return self._popularity.order([candidate.item for candidate in impression.candidates])

    def take(self, values: list[bytes]) -> None:
        """Take records of `scores`."""
        for value in values:
            request = read_identity(value)
            if request is None:
                self._malformed += 1
            else:
                self._requests.take(request, value)

    def report(self) -> None:
        """Bring the metrics up to date."""
        metrics, requests = self._metrics, self._requests
        metrics.in_flight.set(self.in_flight)
        metrics.unacknowledged.set(self._writer.unacknowledged)
        metrics.remembered.set(len(requests))
        self._totals.set(metrics.late, requests.late)
        self._totals.set(metrics.malformed, requests.malformed + self._malformed)


def _ranked(score: Score) -> RankAnswer:
    items = [RankedItem(score.items[index], score.probabilities[index]) for index in score.order]
    return RankAnswer(
        score.request_id,
        score.user,
        "model",
        items,
        score.slots,
        arm=score.arm,
        epoch=score.epoch,
        version=score.version,
        seen=score.seen,
        why=score.why,
    )


def _unranked(impression: Impression, order: list[int], by: Literal["popularity", "candidates"]) -> RankAnswer:
    items = [RankedItem(impression.candidates[place].item, None) for place in order]
    slots = min(impression.slots, len(items))
    return RankAnswer(impression.request_id, impression.user, by, items, slots)
