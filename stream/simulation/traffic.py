"""Simulated users in real time: they ask through the client, see what scores best, and click by the world's truth."""

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from model.metrics import log_losses
from stream.client import Arrival, Client
from stream.errors import SimulationError
from stream.experiment.interleaving import InterleavingVotes
from stream.kafka.reader import TopicReader
from stream.report.schema import ArmTrace
from stream.runtime.closing import Resources, close_all
from stream.schema.events import RequestKey, Score
from stream.schema.topics import Topics
from stream.schema.update_headers import read_update_headers
from stream.simulation.world import Slate, World, category_name, item_name, user_name

_TURN_S = 0.002
_WATCH_S = 0.25
_ANSWER_S = 10.0
_LOOK_BACK = 500


Watch = Callable[["Traffic"], None]


def _nobody(_: "Traffic") -> None:
    pass


@dataclass(frozen=True, slots=True)
class OpenImpression:
    """An impression that is not answered yet: its user's index, what was offered, when (s, wall clock)."""

    user: int
    slate: Slate
    at: float


@dataclass(slots=True)
class TrafficTotals:
    """What a simulation has seen so far. Times `at` are seconds since the start."""

    impressions: int = 0
    answered: int = 0
    unanswered: int = 0
    clicks: int = 0
    behaviors: int = 0
    trained: int = 0
    freshness: list[tuple[float, float]] = field(default_factory=list)
    """(at, s) from a click produced to the first score received of a model that has learned from it."""
    dead_letters: int = 0
    arms: dict[str, ArmTrace] = field(default_factory=dict)
    interleaving_votes: InterleavingVotes = field(default_factory=InterleavingVotes)
    """Votes of the users of interleaved arms."""
    versions: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Arm → the newest (epoch, version) that answered."""

    def traces(self) -> dict[str, ArmTrace]:
        """Return what happened to each arm's users, by name."""
        return {
            name: msgspec.structs.replace(trace, epoch=self.versions[name][0], version=self.versions[name][1])
            for name, trace in sorted(self.arms.items())
        }


class Traffic:
    """Users of a world who visit at random moments.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        world: the simulated world.
        rate: mean impressions a second (Poisson).
        slots: items shown of each answer.
        seed: of arrivals and delays.
    """

    def __init__(
        self, kafka: Mapping[str, str], topics: Topics, world: World, *, rate: float, slots: int, seed: int = 0
    ) -> None:
        self._topics = topics
        self._client = Client(kafka, topics)
        self._watched = TopicReader(kafka, [topics.model_updates, topics.dead_letters])
        self._trained_before = _trained(kafka, topics)
        self._world = world
        self._rate = rate
        self._slots = slots
        self._rng = np.random.default_rng([seed, 4])
        self._asked: dict[RequestKey, OpenImpression] = {}
        self._due: list[tuple[float, RequestKey, int]] = []
        self._new_clicks: dict[str, list[tuple[tuple[int, int], tuple[int, ...]]]] = defaultdict(list)
        self._began = time.time()
        self.tally = TrafficTotals()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is left, unless something went wrong, and stop listening."""
        close_all([lambda: self._client.close(flush=kind is None), self._watched.close], after=error)

    def warm_up(self, behind: Callable[[], int], watch: Watch = _nobody) -> None:
        """Send every user's history, and wait until it is folded.

        Args:
            behind: how many records the workers have not committed yet.
            watch: called a few times a second.
        """
        next_watch = 0.0
        for act in self._world.history().events():
            self._client.behavior(act.user, act.item, act.ts, act.category, act.action)
            self.tally.behaviors += 1
            if time.time() >= next_watch:
                next_watch = time.time() + _WATCH_S
                watch(self)
        self._client.flush()
        while behind():
            watch(self)
            time.sleep(_WATCH_S)
        self.tally.behaviors = 0

    def run(self, seconds: float, watch: Watch = _nobody) -> None:
        """Simulate visits for so many seconds, then wait for their last answers and clicks.

        Args:
            seconds: how long users come.
            watch: called a few times a second; what it raises ends the run.

        Raises:
            SimulationError: when answers stay out.
        """
        self._began = now = time.time()
        end, next_visit, next_watch = now + seconds, now, now
        while now < end or self._asked or self._due:
            while next_visit <= now and next_visit < end:
                self._visit(now)
                next_visit += self._rng.exponential(1 / self._rate)
            for arrival in self._client.poll_scores(_TURN_S):
                self._answered(arrival)
            self._send_due_clicks(time.time())
            self._read_updates()
            now = time.time()
            if now >= next_watch:
                next_watch = now + _WATCH_S
                watch(self)
                self._drop_unanswered(now)
        self._client.flush()

    def await_training(self, deadline_s: float, watch: Watch = _nobody) -> bool:
        """Wait until the trainer has learned every shown item; says whether it did within `deadline_s` seconds."""
        deadline = time.monotonic() + deadline_s
        while self.untrained and time.monotonic() < deadline:
            self._read_updates(_WATCH_S)
            watch(self)
        return not self.untrained

    @property
    def elapsed(self) -> float:
        """Seconds since the start of `run`."""
        return time.time() - self._began

    @property
    def in_flight(self) -> int:
        """Impressions without an answer yet."""
        return len(self._asked)

    @property
    def untrained(self) -> int:
        """Items shown that the trainer has not announced as learned."""
        shown = sum(sum(arm.shown) for arm in self.tally.arms.values())
        return max(0, shown - self.tally.trained)

    def _visit(self, now: float) -> None:
        ts = round(now * 1000)
        user = int(self._world.visitors(1)[0])
        for act in self._world.browse(user, ts).events():
            self._client.behavior(act.user, act.item, act.ts, act.category, act.action)
            self.tally.behaviors += 1
        slate = self._world.impression(user, ts)
        request = self._client.impression(user_name(user), slate.candidates(), self._slots, ts=ts)
        self._asked[request] = OpenImpression(user, slate, time.time())
        self.tally.impressions += 1

    def _answered(self, arrival: Arrival) -> None:
        score = arrival.score
        asked = self._asked.pop(score.request, None)
        if asked is None:
            return
        at = arrival.received - self._began
        self.tally.answered += 1
        version = (score.epoch, score.version)
        self._note_freshness(score.arm, version, arrival.received)
        shown = np.array(score.order[: score.slots])
        items = asked.slate.items[shown]
        ts = round(arrival.received * 1000)
        truth = self._world.shown_probability(asked.user, items, ts)
        clicked = self._world.clicks(asked.user, items, ts)
        predicted = np.array(score.probabilities)[shown]
        arm = self.tally.arms.setdefault(score.arm, ArmTrace())
        arm.at.append(at)
        arm.users.append(asked.user)
        arm.shown.append(len(shown))
        arm.clicks.append(int(clicked.sum()))
        arm.losses.append(float(log_losses(clicked.astype(np.float64), predicted).sum()))
        arm.floor.append(float(-(truth * np.log(truth) + (1 - truth) * np.log1p(-truth)).sum()))
        best, even = self._world.best_and_random(asked.user, asked.slate, ts, self._slots)
        arm.best.append(best)
        arm.random.append(even)
        arm.expected.append(float(truth.sum()))
        arm.latency.append(1000 * (arrival.received - asked.at))
        arm.cpu.append(score.spent_ms.cpu)
        self.tally.versions[score.arm] = max(self.tally.versions.get(score.arm, (0, 0)), version)
        won = clicked_by_team(score, shown[clicked].tolist())
        self.tally.interleaving_votes.click(score.arm, score.user, score.request_id, won)
        for index in np.flatnonzero(clicked):
            delay = 0.1 + self._rng.exponential(0.3)
            heapq.heappush(self._due, (arrival.received + delay, score.request, int(items[index])))

    def _send_due_clicks(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, request, item = heapq.heappop(self._due)
            category = int(self._world.catalogue.category(np.array([item]))[0])
            self._client.click(request, item_name(item), category=category_name(category))
            self.tally.clicks += 1
            self.tally.behaviors += 1

    def _read_updates(self, timeout_s: float = 0.0) -> None:
        """Take what the trainer announces, and count dead letters."""
        for message in self._watched.read(timeout_s):
            if message.topic() == self._topics.dead_letters:
                self.tally.dead_letters += 1
            elif announced := read_update_headers(message.headers()):
                self.tally.trained = max(self.tally.trained, announced.samples - self._trained_before)
                if announced.clicks:
                    self._new_clicks[announced.arm].append(((announced.epoch, announced.version), announced.clicks))

    def _note_freshness(self, arm: str, version: tuple[int, int], received: float) -> None:
        """Note how old the clicks are that this answer is the first to know."""
        new_clicks = self._new_clicks[arm]
        while new_clicks and new_clicks[0][0] <= version:
            _, clicks = new_clicks.pop(0)
            at = received - self._began
            self.tally.freshness += [(at, received - click / 1000) for click in clicks]

    def _drop_unanswered(self, now: float) -> None:
        late = [request for request, asked in self._asked.items() if now - asked.at > _ANSWER_S]
        for request in late:
            del self._asked[request]
        self.tally.unanswered += len(late)
        if self.tally.unanswered > 100 and self.tally.unanswered > self.tally.answered:
            raise SimulationError(
                f"{self.tally.unanswered} impressions were not answered within {_ANSWER_S:.0f} s: is a worker running?"
            )


def _trained(kafka: Mapping[str, str], topics: Topics) -> int:
    """Return how many samples the trainer has announced by now."""
    trained = 0
    with Resources() as resources:
        tail = resources.add(TopicReader(kafka, [topics.model_updates], back=_LOOK_BACK, on_missing="skip"))
        for messages in tail.read_to_end():
            for message in messages:
                if announced := read_update_headers(message.headers()):
                    trained = max(trained, announced.samples)
    return trained


def clicked_by_team(score: Score, clicked: Collection[int]) -> dict[str, list[str]]:
    """Return team → those of its items that were clicked; nothing where the list was not interleaved.

    Args:
        score: the answer.
        clicked: indices of the clicked candidates.
    """
    return {team.arm: [score.items[index] for index in team.members if index in clicked] for team in score.teams}
