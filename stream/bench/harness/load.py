"""Open-loop load on a whole system: requests are sent on schedule, however slow earlier answers are.

Latency counts from the scheduled time of a request, so delays of the load generator itself are included, and slow
phases of the system are not under-represented (Tene's "coordinated omission").
"""

import heapq
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.bench.harness.full_state import copy_state
from stream.client import Client
from stream.errors import SimulationError
from stream.kafka.offsets import GroupLag
from stream.kafka.reader import TopicReader
from stream.local.system import System, local_system
from stream.schema.events import Candidate, RequestKey, Spent
from stream.schema.topics import Topics
from stream.schema.update_headers import UpdateHeaders, read_update_headers
from stream.settings import Settings, convert
from stream.simulation.config import SHORT_WINDOWS

SLOTS = 10
_CLICK_RATE = 0.1
_CLICK_DELAY_S = 0.4
_BEHAVIORS = 3
_ITEMS, _CATEGORIES = 3000, 60
_TIMEOUT_S = 20.0
_WATCH_S = 0.25

SETTINGS: dict[str, Any] = {
    "worker": {**SHORT_WINDOWS, "idle_timeout_s": 2.0},
}
"""Short windows."""
ARM = "sam"
"""The one arm, unless another is named: the default model at length 1000."""


@dataclass(frozen=True, slots=True)
class Population:
    """Number of users, behaviours in each user's history, and candidates in each request.

    `clicks` is how many of an answer's shown items are clicked; None for each with the probability of a tenth.
    """

    users: int = 400
    history: int = 1000
    candidates: int = 50
    clicks: int | None = None


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """A request and its answer; times in seconds since the Unix epoch.

    Without an answer, `received` is when the request was given up, and `spent` is None.
    """

    due: float
    received: float
    version: tuple[int, int] = (0, 0)
    spent: Spent | None = None

    @property
    def latency_ms(self) -> float:
        """Milliseconds from the scheduled to the received time."""
        return 1000 * (self.received - self.due)


@dataclass(slots=True)
class LoadResult:
    """The result of one run: answers in order of arrival, and the updates that the trainer announced."""

    answers: list[TimedAnswer] = field(default_factory=list)
    announced: list[UpdateHeaders] = field(default_factory=list)

    @property
    def unanswered(self) -> int:
        """Number of requests that were given up."""
        return sum(answer.spent is None for answer in self.answers)


class LoadGenerator:
    """Simulated users: requests on a schedule, clicks on a tenth of the shown items, and other behaviours.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        population: the users.
        seed: of all random numbers.
    """

    def __init__(self, kafka: Mapping[str, str], topics: Topics, population: Population, *, seed: int = 0) -> None:
        self._population = population
        self._client = Client(kafka, topics)
        self._updates = TopicReader(kafka, [topics.model_updates], on_missing="skip")
        self._rng = np.random.default_rng(seed)
        self._candidates = [Candidate(f"item-{item}", f"category-{item % _CATEGORIES}") for item in range(_ITEMS)]

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, unless there was an error, and close."""
        self._client.close(flush=kind is None)
        self._updates.close()

    def send_histories(self) -> None:
        """Send every user's history; returns when Kafka has acknowledged it."""
        start = round(1000 * time.time()) - 1000 * self._population.history
        for step in range(self._population.history):
            items = self._items(self._population.users)
            for user, item in enumerate(items):
                self.send_behavior(f"user-{user}", item, start + 1000 * step)
        self._client.flush()

    def run(self, rate: float, seconds: float, check: Callable[[], None]) -> LoadResult:
        """Send `rate` requests a second (Poisson arrivals) for `seconds`, then wait for the last answers.

        Args:
            rate: mean requests a second.
            seconds: length of the run.
            check: called a few times a second; what it raises ends the run.

        Raises:
            SimulationError: when no request is answered.
        """
        result = LoadResult()
        waiting: dict[RequestKey, float] = {}
        clicks: list[tuple[float, RequestKey, int]] = []
        schedule = self.schedule(rate, seconds)
        began = now = time.time()
        next_check = 0.0
        upcoming = next(schedule, None)
        while upcoming is not None or waiting or clicks:
            while upcoming is not None and began + upcoming[0] <= now:
                due = began + upcoming[0]
                waiting[self._send_request(*upcoming[1:])] = due
                upcoming = next(schedule, None)
            while clicks and clicks[0][0] <= now:
                self.click(*heapq.heappop(clicks)[1:])
            next_due = began + upcoming[0] if upcoming is not None else now + _WATCH_S
            next_due = min(next_due, clicks[0][0] if clicks else next_due)
            for score, received in self._client.poll_scores(min(max(0.0, next_due - time.time()), _WATCH_S)):
                if (asked := waiting.pop(score.request, None)) is not None:
                    result.answers.append(TimedAnswer(asked, received, (score.epoch, score.version), score.spent_ms))
                    shown = [score.items[index] for index in score.order[: score.slots]]
                    for at, item in self.draw_clicks(shown, received):
                        heapq.heappush(clicks, (at, score.request, item))
            now = time.time()
            if now >= next_check:
                next_check = now + _WATCH_S
                check()
                self._read_announcements(result)
                if now > began + seconds + _TIMEOUT_S:
                    result.answers += [TimedAnswer(due, now) for due in waiting.values()]
                    waiting.clear()
        self._read_announcements(result)
        if result.unanswered == len(result.answers):
            raise SimulationError(f"no request at {rate:g} a second was answered within {_TIMEOUT_S:.0f} s")
        return result

    def schedule(self, rate: float, seconds: float) -> Iterator[tuple[float, str, list[Candidate], list[int]]]:
        """Yield the time (s from the start), user, candidates, and the items of the user's other behaviours."""
        # Everything is drawn before the first request, so that drawing delays no request.
        count = int(rate * seconds)
        times = np.cumsum(self._rng.exponential(1 / rate, count)).tolist()
        users = self._rng.integers(self._population.users, size=count).tolist()
        visits = [
            (
                at,
                f"user-{user}",
                [self._candidates[item] for item in self._distinct(self._population.candidates)],
                self._items(_BEHAVIORS),
            )
            for at, user in zip(times, users, strict=True)
        ]
        return iter(visits)

    def draw_clicks(self, shown: Sequence[str], received: float) -> list[tuple[float, int]]:
        """Return when (s since the epoch) which of the shown items will be clicked."""
        draws, clicks = self._rng.random(len(shown)), self._population.clicks
        clicked = np.flatnonzero(draws < _CLICK_RATE) if clicks is None else np.argsort(draws)[:clicks]
        return [
            (received + self._rng.exponential(_CLICK_DELAY_S), int(shown[place].removeprefix("item-")))
            for place in clicked.tolist()
        ]

    def click(self, request: RequestKey, item: int) -> None:
        """Send a click."""
        candidate = self._candidates[item]
        self._client.click(request, candidate.item, category=candidate.category)

    def _send_request(self, user: str, candidates: list[Candidate], seen: list[int]) -> RequestKey:
        for item in seen:
            self.send_behavior(user, item)
        return self._client.impression(user, candidates, SLOTS)

    def send_behavior(self, user: str, item: int, ts: int | None = None) -> None:
        """Send that a user has seen an item, at `ts` (ms; now when None)."""
        candidate = self._candidates[item]
        self._client.behavior(user, candidate.item, ts, candidate.category)

    def _read_announcements(self, result: LoadResult) -> None:
        announcements = (read_update_headers(message.headers()) for message in self._updates.read(0))
        result.announced += [announced for announced in announcements if announced is not None]

    def _items(self, count: int) -> list[int]:
        # Squared: some items are far more popular than others.
        items: list[int] = (self._rng.random(count) ** 2 * _ITEMS).astype(int).tolist()
        return items

    def _distinct(self, count: int) -> list[int]:
        items: list[int] = self._rng.choice(_ITEMS, count, replace=False, shuffle=False).tolist()
        return items


def load_settings(prefix: str, arm: str | Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Return the settings of a system under load.

    Args:
        prefix: of topics and group.
        arm: preset of the one arm, or how it is set.
        sections: what differs from `SETTINGS`, by section.
    """
    own = {"topics": {"prefix": prefix}, "worker": {"group": f"{prefix}worker"}}
    merged = {
        name: {**SETTINGS.get(name, {}), **own.get(name, {}), **sections.get(name, {})}
        for name in {*SETTINGS, *own, *sections}
    }
    return convert({**merged, "arms": [{"name": arm, "preset": arm} if isinstance(arm, str) else arm]})


@contextmanager
def loaded_system(
    broker: str,
    population: Population,
    *,
    full: Path | None = None,
    launcher: Sequence[str] = (),
    arm: str | Mapping[str, Any] = ARM,
    **sections: Mapping[str, Any],
) -> Iterator[tuple[System, LoadGenerator]]:
    """Start a broker, one worker and one trainer, and load every user's history into the state.

    Args:
        broker: as `local_system` takes it.
        population: the users.
        full: a closed state of the only partition that has the histories already: they are not sent.
        launcher: as `Processes` takes it.
        arm: preset of the one arm, or how it is set.
        sections: settings that differ from `SETTINGS`, by section.
    """
    prefix = f"bench-{uuid.uuid4().hex[:8]}-"
    settings = load_settings(prefix, arm, sections)
    with (
        _directory(full, Topics(prefix)) as directory,
        local_system(settings, broker=broker, directory=directory, launcher=launcher) as system,
        _removed_afterwards(system),
        LoadGenerator(system.settings.kafka, system.topics, population) as load,
        closing(GroupLag(system.settings.kafka, settings.worker.group)) as lag,
    ):
        if full is None:
            load.send_histories()
        while lag.of(system.topics.behaviors, settings.topics.partitions):
            system.check()
            time.sleep(_WATCH_S)
        yield system, load


@contextmanager
def _directory(full: Path | None, topics: Topics) -> Iterator[Path]:
    """Make a directory of a system; a full state is where its worker looks, as one at the beginning of all topics."""
    with tempfile.TemporaryDirectory(prefix="samstream-bench-") as scratch:
        if full is not None:
            read = topics.behaviors, topics.impressions, topics.clicks, topics.scores
            copy_state(full, Path(scratch) / "state" / "partition-00000", dict.fromkeys(read, 0))
        yield Path(scratch)


@contextmanager
def _removed_afterwards(system: System) -> Iterator[None]:
    """At the end, stop the processes and delete the topics when the broker was not started here."""
    try:
        yield
    finally:
        if system.broker.engine is None:
            system.processes.stop()
            admin = AdminClient({**system.settings.kafka, "log_level": "0"})
            for deleted in admin.delete_topics([topic.name for topic in system.topics]).values():
                with suppress(KafkaException):
                    deleted.result()
