"""One copy of a world in virtual time: sequences, the real joiner, a ranker that learns and is updated by the clock.

Time goes in ticks. Within a tick visits are answered in order by what the scorer knew at its beginning; at its end the
labels that have come are learned, and where an update is due it is published. So a step of learning is at most a tick
late, as in a system, and its cadence does not depend on how often updates are published.
"""

import copy
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model.example import Example
from state.behavior import BehaviorArray
from state.layout import Ring, user_prefix
from state.window import Window
from stream.lab.rankers import Ranker
from stream.lab.script import START, Script, behavior
from stream.schema.events import Click
from stream.schema.record import Record
from stream.simulation.hashing import Floats, Ints
from stream.simulation.world import item_name, user_name
from stream.task.joiner import Joiner, LabelledItems, PendingImpression, UnmatchedClick

TICK_S = 0.5
LENGTH = 1000
"""Behaviours that a sequence holds."""
_MICRO_BATCH, _LEARNED_TOGETHER = 16, 32  # as the worker and the trainer do, unless set otherwise
_WINDOW_MS, _LATENESS_MS = 5_000, 500  # as in the demo, whose users click as soon

_NOWHERE = Record("clicks", 0, 0, 0, None, None)

Watch = Callable[[int], None]
"""Called with the number of visits that a tick brought."""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of the V measured visits, in the order of the script.

    Attributes:
        users: (V,) who came.
        clicks: (V,) shown items that were clicked.
        expected: (V,) true expected clicks on the shown items.
        best: (V,) those of the truly best items.
        order: (V, C) candidates, best first; the first `slots` were shown.
        scores: (V, C) float32 what the ranker said of every candidate, as served.
        would_click: (V, C) whether each candidate is clicked if it is shown; the same in every arm.
        slots: how many are shown.
    """

    users: Ints
    clicks: Ints
    expected: Floats
    best: Floats
    order: Ints
    scores: npt.NDArray[np.float32]
    would_click: npt.NDArray[np.bool_]
    slots: int


class Stage:
    """A copy of the world of a script, from its start on.

    Args:
        script: what happens whatever is shown.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        ring = Ring.holding(LENGTH)
        self._windows = [Window(ring, user_prefix(user_name(user)), 0, 0, b"") for user in range(len(script.histories))]
        for window, history in zip(self._windows, script.histories, strict=True):
            window.append(history.tobytes())
        self._joiner = Joiner(_NoTable(), window_ms=_WINDOW_MS, lateness_ms=_LATENESS_MS)
        self._open: dict[str, Example] = {}
        self._due: list[tuple[int, int, int]] = []
        self._visit = 0
        self._ticks = 0
        self._order = np.zeros_like(script.lots)
        self._scores = np.full(script.truth.shape, np.nan, dtype=np.float32)

    def twin(self) -> "Stage":
        """Return a copy of the world as it is now; what happens in one does not touch the other."""
        twin = copy.copy(self)
        twin._windows = [_copied(window) for window in self._windows]
        twin._joiner = copy.deepcopy(self._joiner)
        twin._open, twin._due = dict(self._open), list(self._due)
        twin._order, twin._scores = self._order.copy(), self._scores.copy()
        return twin

    def warm_up(self, pupil: Ranker, watch: Watch) -> None:
        """Show by lot until the warm-up ends; the pupil learns from it, and publishes at the end."""
        while self._now < self._script.scenario.begins:
            _learn(pupil, self._tick(None, watch))
        pupil.publish()

    def play(self, ranker: Ranker, update_s: float | None, watch: Watch) -> Played:
        """Let `ranker` rank until the script ends.

        Args:
            ranker: as it is after the warm-up.
            update_s: seconds between two updates, a multiple of the tick; None freezes the ranker.
            watch: told of progress.
        """
        script, first = self._script, self._script.measured
        every = None if update_s is None else max(1, round(update_s / TICK_S))
        begun = self._ticks
        while self._visit < len(script):
            lessons = self._tick(ranker, watch)
            if every is not None:
                _learn(ranker, lessons)
                if (self._ticks - begun) % every == 0:
                    ranker.publish()
        order = self._order[first:]
        shown = order[:, : script.scenario.slots]
        return Played(
            users=script.users[first:],
            clicks=np.take_along_axis(script.would_click[first:], shown, axis=1).sum(axis=1),
            expected=np.take_along_axis(script.truth[first:], shown, axis=1).sum(axis=1),
            best=script.best[first:],
            order=order,
            scores=self._scores[first:],
            would_click=script.would_click[first:],
            slots=script.scenario.slots,
        )

    @property
    def _now(self) -> int:
        return START + round(1000 * TICK_S * self._ticks)

    def _tick(self, ranker: Ranker | None, watch: Watch) -> list[Example]:
        """Go on by one tick, ranking by lot without a ranker; returns what was labelled."""
        self._ticks += 1
        script, end, lessons, before = self._script, self._now, list[Example](), self._visit
        waiting: dict[int, tuple[int, BehaviorArray]] = {}
        while self._visit < len(script) and (now := int(script.ts[self._visit])) < end:
            visit, user = self._visit, int(script.users[self._visit])
            # Who comes again before the answer is known may have clicked meanwhile.
            if user in waiting or len(waiting) == _MICRO_BATCH:
                lessons += self._answer(ranker, waiting)
            lessons += self._click_until(now)
            window = self._windows[user]
            if len(acts := script.acts[script.act_ends[visit] : script.act_ends[visit + 1]]):
                window.append(acts.tobytes())
            waiting[user] = visit, window.records(window.count - LENGTH, window.count)
            self._visit += 1
        lessons += self._answer(ranker, waiting)
        lessons += self._click_until(end)
        lessons += self._labelled(self._joiner.advance(end))
        watch(self._visit - before)
        return lessons

    def _answer(self, ranker: Ranker | None, waiting: dict[int, tuple[int, BehaviorArray]]) -> list[Example]:
        script, slots, lessons = self._script, self._script.scenario.slots, list[Example]()
        visits = [visit for visit, _ in waiting.values()]
        examples = [
            Example(sequence, int(script.ts[visit]), script.item_keys[visit], script.category_keys[visit])
            for visit, sequence in waiting.values()
        ]
        scores = ranker.score(examples, visits) if ranker and examples else None
        for place, (visit, example) in enumerate(zip(visits, examples, strict=True)):
            if scores is None:
                order = script.lots[visit]
            else:
                self._scores[visit] = scores[place]
                order = np.argsort(-scores[place], kind="stable")
            self._order[visit] = order
            self._open[str(visit)] = example
            lessons += self._labelled(self._joiner.impression(self._pending(visit, order)))
            for candidate in order[:slots][script.would_click[visit, order[:slots]]].tolist():
                due = int(script.ts[visit] + script.delays[visit, candidate])
                heapq.heappush(self._due, (due, visit, candidate))
        waiting.clear()
        return lessons

    def _pending(self, visit: int, order: Ints) -> PendingImpression:
        script = self._script
        return PendingImpression(
            request_id=str(visit),
            user=user_name(int(script.users[visit])),
            arm="lab",
            ts=int(script.ts[visit]),
            epoch=0,
            version=0,
            seen=0,
            slots=script.scenario.slots,
            items=[item_name(item) for item in script.items[visit].tolist()],
            categories=script.category_keys[visit].tolist(),
            probabilities=[],
            ranks=np.argsort(order).tolist(),
            clicked=bytearray(len(order)),
        )

    def _click_until(self, now: int) -> list[Example]:
        """Let the clicks happen that are due: each is a label, and a behaviour in this copy's sequences."""
        script, lessons = self._script, list[Example]()
        while self._due and self._due[0][0] <= now:
            ts, visit, candidate = heapq.heappop(self._due)
            user = int(script.users[visit])
            keys = int(script.item_keys[visit, candidate]), int(script.category_keys[visit, candidate])
            self._windows[user].append(behavior(*keys, ts).tobytes())
            item = item_name(int(script.items[visit, candidate]))
            click = Click(str(visit), user_name(user), item, ts)
            lessons += self._labelled(self._joiner.click(click, _NOWHERE))
        return lessons

    def _labelled(self, labels: Iterable[LabelledItems | UnmatchedClick]) -> list[Example]:
        lessons = []
        for label in labels:
            if isinstance(label, UnmatchedClick):
                raise AssertionError(f"a click of this world cannot be an orphan: {label.reason}")
            request = label.pending.request_id
            # The window's end is the last that is heard of a request.
            example = self._open[request] if label.label else self._open.pop(request)
            lessons.append(
                replace(
                    example,
                    items=example.items[label.indices],
                    categories=example.categories[label.indices],
                    labels=np.full(len(label.indices), label.label, dtype=np.float32),
                )
            )
        return lessons


class _NoTable:
    """Where the joiner would keep open requests for a restart."""

    def put(self, key: str, value: bytes) -> None:
        """Keep nothing: a stage is never restarted."""

    def delete(self, key: str) -> None:
        """Keep nothing."""

    def items(self) -> Iterable[tuple[str, bytes]]:
        """Return nothing."""
        return ()


def _copied(window: Window) -> Window:
    kept = window.records(0, window.count)
    return Window(Ring.holding(LENGTH), window.prefix, window.count - len(kept), window.count, kept.tobytes())


def _learn(ranker: Ranker, lessons: list[Example]) -> None:
    for start in range(0, len(lessons), _LEARNED_TOGETHER):
        ranker.learn(lessons[start : start + _LEARNED_TOGETHER])
