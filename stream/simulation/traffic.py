"""Simulated users in real time: they request rankings through the client, and click with the world's probabilities."""

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from model.metrics import log_losses
from stream.client import Arrival, Client
from stream.errors import SimulationError
from stream.experiment.interleaving import InterleavingVotes
from stream.kafka.reader import TopicReader
from stream.report.schema import ArmTrace
from stream.runtime.closing import Resources, close_all
from stream.schema.events import RequestKey, Score, decode_outcome
from stream.schema.topics import Topics
from stream.schema.update_headers import read_update_headers
from stream.simulation.hashing import Ints
from stream.simulation.world import Slate, World, category_name, draw_click_delays, item_name, user_name

_POLL_S = 0.002
_WATCH_S = 0.25
_ANSWER_TIMEOUT_S = 10.0
_LOOK_BACK = 500


Watch = Callable[["Traffic"], None]


def _ignore(_: "Traffic") -> None:
    pass


@dataclass(frozen=True, slots=True)
class OpenImpression:
    """An impression without an answer: index of its user, its candidates, when it was sent (s, wall clock)."""

    user: int
    slate: Slate
    at: float


@dataclass(slots=True)
class TrafficTotals:
    """What a simulation has counted so far. Times `at` are seconds since the start."""

    impressions: int = 0
    answered: int = 0
    unanswered: int = 0
    clicks: int = 0
    behaviors: int = 0
    trained: int = 0
    outcomes: int = 0
    """Items with a final label; only where they are awaited."""
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
        await_outcomes: whether `await_training` waits for final labels as well; early labels are learned before.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        topics: Topics,
        world: World,
        *,
        rate: float,
        slots: int,
        seed: int = 0,
        await_outcomes: bool = False,
    ) -> None:
        self._topics = topics
        self._client = Client(kafka, topics)
        self._await_outcomes = await_outcomes
        watched = [topics.model_updates, topics.dead_letters] + [topics.outcomes] * await_outcomes
        self._watched = TopicReader(kafka, watched)
        self._trained_before = _trained(kafka, topics)
        self._world = world
        self._rate = rate
        self._slots = slots
        self._rng = np.random.default_rng([seed, 4])
        self._asked: dict[RequestKey, OpenImpression] = {}
        self._due: list[tuple[float, RequestKey, int]] = []
        self._new_clicks: dict[str, list[tuple[tuple[int, int], tuple[int, ...]]]] = defaultdict(list)
        self._began = time.time()
        self.totals = TrafficTotals()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, unless there was an error, and close."""
        close_all([lambda: self._client.close(flush=kind is None), self._watched.close], after=error)

    def warm_up(self, lag: Callable[[], int], watch: Watch = _ignore) -> None:
        """Send every user's history, and wait until it is folded.

        Args:
            lag: returns how many behaviours the workers have not committed yet.
            watch: called a few times a second.
        """
        next_watch = 0.0
        for behavior in self._world.history().events():
            self._client.behavior(behavior.user, behavior.item, behavior.ts, behavior.category, behavior.action)
            self.totals.behaviors += 1
            if time.time() >= next_watch:
                next_watch = time.time() + _WATCH_S
                watch(self)
        self._client.flush()
        while lag():
            watch(self)
            time.sleep(_WATCH_S)
        self.totals.behaviors = 0

    def run(self, seconds: float, watch: Watch = _ignore) -> None:
        """Simulate visits for so many seconds, then wait for their last answers and clicks.

        Args:
            seconds: how long users come.
            watch: called a few times a second; what it raises ends the run.

        Raises:
            SimulationError: when most impressions are not answered.
        """
        self._began = now = time.time()
        end, next_visit, next_watch = now + seconds, now, now
        while now < end or self._asked or self._due:
            while next_visit <= now and next_visit < end:
                self._visit(now)
                next_visit += self._rng.exponential(1 / self._rate)
            for arrival in self._client.poll_scores(_POLL_S):
                self._take_answer(arrival)
            self._send_due_clicks(time.time())
            self._read_updates()
            now = time.time()
            if now >= next_watch:
                next_watch = now + _WATCH_S
                watch(self)
                self._drop_unanswered(now)
        self._client.flush()

    def await_training(self, deadline_s: float, watch: Watch = _ignore) -> bool:
        """Wait until the trainer has learned every shown item; says whether it did within `deadline_s` seconds."""
        deadline = time.monotonic() + deadline_s
        while (self.untrained or self._unfinished) and time.monotonic() < deadline:
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
        return max(0, self._shown - self.totals.trained)

    @property
    def _unfinished(self) -> bool:
        """Whether an item shown waits for its final label."""
        return self._await_outcomes and self.totals.outcomes < self._shown

    @property
    def _shown(self) -> int:
        return sum(sum(arm.shown) for arm in self.totals.arms.values())

    def _visit(self, now: float) -> None:
        ts = round(now * 1000)
        user = int(self._world.visitors(1)[0])
        for behavior in self._world.browse(user, ts).events():
            self._client.behavior(behavior.user, behavior.item, behavior.ts, behavior.category, behavior.action)
            self.totals.behaviors += 1
        slate = self._world.impression(user, ts)
        request = self._client.impression(user_name(user), slate.candidates(), self._slots, ts=ts)
        self._asked[request] = OpenImpression(user, slate, time.time())
        self.totals.impressions += 1

    def _take_answer(self, arrival: Arrival) -> None:
        """Show the best items of an answer; the user's clicks become due."""
        score = arrival.score
        asked = self._asked.pop(score.request, None)
        if asked is None:
            return
        shown = np.array(score.order[: score.slots])
        items = asked.slate.items[shown]
        clicked = self._world.clicks(asked.user, items, round(arrival.received * 1000))
        self._record_answer(arrival, asked, shown, clicked)
        for item in items[clicked].tolist():
            delay = float(draw_click_delays(self._rng))
            heapq.heappush(self._due, (arrival.received + delay, score.request, item))

    def _record_answer(
        self, arrival: Arrival, asked: OpenImpression, shown: Ints, clicked: npt.NDArray[np.bool_]
    ) -> None:
        """Add an answer to the totals: what was shown and clicked, and what the world knows of it."""
        score, ts = arrival.score, round(arrival.received * 1000)
        version = (score.epoch, score.version)
        self.totals.answered += 1
        self._note_freshness(score.arm, version, arrival.received)
        truth = self._world.shown_probability(asked.user, asked.slate.items[shown], ts)
        predicted = np.array(score.probabilities)[shown]
        arm = self.totals.arms.setdefault(score.arm, ArmTrace())
        arm.at.append(arrival.received - self._began)
        arm.users.append(asked.user)
        arm.shown.append(len(shown))
        arm.clicks.append(int(clicked.sum()))
        arm.losses.append(float(log_losses(clicked.astype(np.float64), predicted).sum()))
        arm.floor.append(float(-(truth * np.log(truth) + (1 - truth) * np.log1p(-truth)).sum()))
        best, random = self._world.best_and_random(asked.user, asked.slate, ts, self._slots)
        arm.best.append(best)
        arm.random.append(random)
        arm.expected.append(float(truth.sum()))
        arm.latency.append(1000 * (arrival.received - asked.at))
        arm.cpu.append(score.spent_ms.cpu)
        self.totals.versions[score.arm] = max(self.totals.versions.get(score.arm, (0, 0)), version)
        won = clicked_by_team(score, shown[clicked].tolist())
        self.totals.interleaving_votes.click(score.arm, score.user, score.request_id, won)

    def _send_due_clicks(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, request, item = heapq.heappop(self._due)
            category = int(self._world.catalogue.category(np.array([item]))[0])
            self._client.click(request, item_name(item), category=category_name(category))
            self.totals.clicks += 1
            self.totals.behaviors += 1

    def _read_updates(self, timeout_s: float = 0.0) -> None:
        """Take what the trainer announces, and count dead letters."""
        for message in self._watched.read(timeout_s):
            if message.topic() == self._topics.dead_letters:
                self.totals.dead_letters += 1
            elif message.topic() == self._topics.outcomes:
                self.totals.outcomes += len(decode_outcome(message.value() or b"").items)
            elif announced := read_update_headers(message.headers()):
                self.totals.trained = max(self.totals.trained, announced.samples - self._trained_before)
                if announced.clicks:
                    self._new_clicks[announced.arm].append(((announced.epoch, announced.version), announced.clicks))

    def _note_freshness(self, arm: str, version: tuple[int, int], received: float) -> None:
        """Note the age of each click that the model of this answer is the first to have learned."""
        new_clicks = self._new_clicks[arm]
        while new_clicks and new_clicks[0][0] <= version:
            _, clicks = new_clicks.pop(0)
            at = received - self._began
            self.totals.freshness += [(at, received - click / 1000) for click in clicks]

    def _drop_unanswered(self, now: float) -> None:
        late = [request for request, asked in self._asked.items() if now - asked.at > _ANSWER_TIMEOUT_S]
        for request in late:
            del self._asked[request]
        self.totals.unanswered += len(late)
        if self.totals.unanswered > 100 and self.totals.unanswered > self.totals.answered:
            raise SimulationError(
                f"{self.totals.unanswered} impressions were not answered within {_ANSWER_TIMEOUT_S:.0f} s:"
                " is a worker running?"
            )


def _trained(kafka: Mapping[str, str], topics: Topics) -> int:
    """Return how many samples the trainer has announced by now."""
    trained = 0
    with Resources() as resources:
        reader = resources.add(TopicReader(kafka, [topics.model_updates], back=_LOOK_BACK, on_missing="skip"))
        for messages in reader.read_to_end():
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
