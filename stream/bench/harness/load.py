"""A whole system under open-loop load: requests come when they are due, however slow the answers to earlier ones are.

Latency counts from the moment at which a request was due, so time that the sender itself lost is in it: nothing is left
out because the system was slow (Tene's "coordinated omission").
"""

import heapq
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.client import Client
from stream.errors import SimulationError
from stream.kafka.offsets import GroupLag
from stream.kafka.reader import TopicReader
from stream.local.system import System, local_system
from stream.schema.events import Candidate, RequestKey, Score, Spent
from stream.schema.topics import Topics
from stream.schema.update_headers import UpdateHeaders, read_update_headers
from stream.settings import convert

SLOTS = 10
_CLICK_RATE = 0.1
_CLICK_DELAY_S = 0.4
_BEHAVIORS = 3
_ITEMS, _CATEGORIES = 3000, 60
_GIVE_UP_S = 20.0
_WATCH_S = 0.25

SETTINGS: dict[str, Any] = {
    "worker": {"attribution_window_s": 5.0, "allowed_lateness_s": 0.5, "idle_timeout_s": 2.0},
    "arms": [{"name": "sam", "preset": "sam"}],
}
"""Short windows, so that negatives flow as they would for hours; one arm, the default model at length 1000."""


@dataclass(frozen=True, slots=True)
class Population:
    """How many users there are, how many behaviours each has, how many candidates a request names."""

    users: int = 400
    history: int = 1000
    candidates: int = 50


@dataclass(frozen=True, slots=True)
class Answered:
    """A request and its answer; times in seconds of the wall clock.

    `received` is when it was given up where no answer came, and `spent` is None then.
    """

    due: float
    received: float
    version: tuple[int, int] = (0, 0)
    spent: Spent | None = None

    @property
    def latency_ms(self) -> float:
        """Milliseconds from due to received."""
        return 1000 * (self.received - self.due)


@dataclass(slots=True)
class Round:
    """What one run of load brought: answers in the order in which they came, and what the trainer announced."""

    answers: list[Answered] = field(default_factory=list)
    announced: list[UpdateHeaders] = field(default_factory=list)

    @property
    def unanswered(self) -> int:
        """Requests that were given up."""
        return sum(answer.spent is None for answer in self.answers)


class Load:
    """Users who ask at given times, click a tenth of what they are shown, and do other things besides.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        population: the users.
        seed: of all that is drawn.
    """

    def __init__(self, kafka: Mapping[str, str], topics: Topics, population: Population, *, seed: int = 0) -> None:
        self._population = population
        self._client = Client(kafka, topics)
        self._updates = TopicReader(kafka, [topics.model_updates])
        self._rng = np.random.default_rng(seed)
        self._candidates = [Candidate(f"item-{item}", f"category-{item % _CATEGORIES}") for item in range(_ITEMS)]

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is left, unless something went wrong, and stop listening."""
        self._client.close(flush=kind is None)
        self._updates.close()

    def give_histories(self) -> None:
        """Send every user's history; returns when Kafka has it."""
        start = round(1000 * time.time()) - 1000 * self._population.history
        for step in range(self._population.history):
            items = self._items(self._population.users)
            for user, item in enumerate(items):
                self._behave(f"user-{user}", item, start + 1000 * step)
        self._client.flush()

    def run(self, rate: float, seconds: float, check: Callable[[], None]) -> Round:
        """Ask `rate` times a second (Poisson arrivals) for so many seconds, then wait for the last answers.

        Args:
            rate: mean requests a second.
            seconds: how long.
            check: called a few times a second; what it raises ends the run.

        Raises:
            SimulationError: when nothing is answered.
        """
        found = Round()
        waiting: dict[RequestKey, float] = {}
        clicks: list[tuple[float, RequestKey, int]] = []
        schedule = self._schedule(rate, seconds)
        began = now = time.time()
        next_check = 0.0
        upcoming = next(schedule, None)
        while upcoming is not None or waiting or clicks:
            while upcoming is not None and began + upcoming[0] <= now:
                due = began + upcoming[0]
                waiting[self._ask(*upcoming[1:])] = due
                upcoming = next(schedule, None)
            while clicks and clicks[0][0] <= now:
                _, request, item = heapq.heappop(clicks)
                candidate = self._candidates[item]
                self._client.click(request, candidate.item, category=candidate.category)
            next_due = began + upcoming[0] if upcoming is not None else now + _WATCH_S
            next_due = min(next_due, clicks[0][0] if clicks else next_due)
            for score, received in self._client.poll_scores(min(max(0.0, next_due - time.time()), _WATCH_S)):
                if (asked := waiting.pop(score.request, None)) is not None:
                    found.answers.append(Answered(asked, received, (score.epoch, score.version), score.spent_ms))
                    for item in self._clicked(score):
                        at = received + self._rng.exponential(_CLICK_DELAY_S)
                        heapq.heappush(clicks, (at, score.request, item))
            now = time.time()
            if now >= next_check:
                next_check = now + _WATCH_S
                check()
                self._listen(found)
                if now > began + seconds + _GIVE_UP_S:
                    found.answers += [Answered(due, now) for due in waiting.values()]
                    waiting.clear()
        self._listen(found)
        if found.unanswered == len(found.answers):
            raise SimulationError(f"no request at {rate:g} a second was answered within {_GIVE_UP_S:.0f} s")
        return found

    def _schedule(self, rate: float, seconds: float) -> Iterator[tuple[float, str, list[Candidate], list[int]]]:
        """Yield when (s from the start), who, which candidates, and which items the user meets besides."""
        # All is drawn before the first request, so that drawing delays none.
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

    def _ask(self, user: str, candidates: list[Candidate], met: list[int]) -> RequestKey:
        for item in met:
            self._behave(user, item)
        return self._client.impression(user, candidates, SLOTS)

    def _behave(self, user: str, item: int, ts: int | None = None) -> None:
        candidate = self._candidates[item]
        self._client.behavior(user, candidate.item, ts, candidate.category)

    def _clicked(self, score: Score) -> list[int]:
        shown = score.order[: score.slots]
        return [
            int(score.items[index].removeprefix("item-"))
            for index, draw in zip(shown, self._rng.random(len(shown)).tolist(), strict=True)
            if draw < _CLICK_RATE
        ]

    def _listen(self, found: Round) -> None:
        announcements = (read_update_headers(message) for message in self._updates.read(0))
        found.announced += [announced for announced in announcements if announced is not None]

    def _items(self, count: int) -> list[int]:
        # Squared: some items are met far more often than others.
        items: list[int] = (self._rng.random(count) ** 2 * _ITEMS).astype(int).tolist()
        return items

    def _distinct(self, count: int) -> list[int]:
        items: list[int] = self._rng.choice(_ITEMS, count, replace=False, shuffle=False).tolist()
        return items


@contextmanager
def loaded_system(broker: str, population: Population, **sections: Mapping[str, Any]) -> Iterator[tuple[System, Load]]:
    """Start a broker, one worker and one trainer, and fold every user's history.

    Args:
        broker: as `local_system` takes it.
        population: the users.
        sections: settings that differ from `SETTINGS`, by section.
    """
    prefix = f"bench-{uuid.uuid4().hex[:8]}-"
    own = {"topics": {"prefix": prefix}, "worker": {"group": f"{prefix}worker"}}
    names = {*SETTINGS, *own, *sections}
    defaults = {name: SETTINGS.get(name, {}) for name in names}
    settings = convert(
        {
            name: value if name == "arms" else {**value, **own.get(name, {}), **sections.get(name, {})}
            for name, value in defaults.items()
        }
    )
    with (
        tempfile.TemporaryDirectory(prefix="samstream-bench-") as scratch,
        local_system(settings, broker=broker, directory=Path(scratch)) as system,
        _removed_afterwards(system),
        Load(system.settings.kafka, system.topics, population) as load,
        closing(GroupLag(system.settings.kafka, settings.worker.group)) as lag,
    ):
        load.give_histories()
        while lag.of(system.topics.behaviors, settings.topics.partitions):
            system.check()
            time.sleep(_WATCH_S)
        yield system, load


@contextmanager
def _removed_afterwards(system: System) -> Iterator[None]:
    """Stop the processes and delete the topics at the end, where the broker is not ours to throw away."""
    try:
        yield
    finally:
        if system.broker.engine is None:
            system.processes.stop()
            admin = AdminClient({**system.settings.kafka, "log_level": "0"})
            for deleted in admin.delete_topics([topic.name for topic in system.topics]).values():
                with suppress(KafkaException):
                    deleted.result()
