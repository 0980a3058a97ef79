"""One copy of a simulated world in virtual time: users' sequences, the real joiner, and a ranker that learns.

Time advances in ticks. All visits of a tick are answered by the parameters that the ranker had at its beginning. At its
end the ranker learns from the labels that have come, and publishes an update when one is due. So learning is at most a
tick late, as in a running system, and how often it learns does not depend on how often it publishes.
"""

import copy
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model.example import Example
from model.statistics.item_statistics import ItemStatistics
from state.behavior import BehaviorArray
from state.layout import Ring, user_prefix
from state.sequence_buffer import SequenceBuffer
from stream.lab.rankers import Ranker
from stream.lab.script import START, Script, click_behavior
from stream.schema.events import Click
from stream.schema.record import Record, RefusedRecord
from stream.simulation.config import SHORT_WINDOWS
from stream.simulation.hashing import Floats, Ints
from stream.simulation.world import item_name, user_name
from stream.task.joiner import Joiner, LabelledItems, PendingImpression

TICK_S = 0.5
HALF_LIVES_S = (30.0, 300.0, 3000.0)
"""Of the statistics: a script lasts minutes, and tastes drift and items go within it."""
SEQUENCE_LENGTH = 1000
"""Behaviours that are kept of a user."""
_MICRO_BATCH, _TRAIN_BATCH = 16, 32  # the defaults of worker and trainer
_WINDOW_MS, _LATENESS_MS = (
    round(1000 * SHORT_WINDOWS[name]) for name in ("attribution_window_s", "allowed_lateness_s")
)

_NO_RECORD = Record("clicks", 0, 0, 0, None, None)

OnProgress = Callable[[int], None]
"""Called with the number of visits since the last call."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The V measured visits as one ranker served them, in the order of the script.

    Attributes:
        users: (V,) user indices.
        clicks: (V,) clicks on the shown items.
        expected: (V,) true expected clicks on the shown items in their places.
        best: (V,) true expected clicks on the best items.
        order: (V, C) candidates, best first; the first `slots` were shown.
        scores: (V, C) float32 scores of all candidates, as served.
        would_click: (V, C) whether each candidate is clicked if it is shown and looked at; the same for every ranker.
        slots: items shown in a visit.
    """

    users: Ints
    clicks: Ints
    expected: Floats
    best: Floats
    order: Ints
    scores: npt.NDArray[np.float32]
    would_click: npt.NDArray[np.bool_]
    slots: int


class Environment:
    """The users' side of a script: what they did, what they were shown, and which labels follow.

    Args:
        script: what happens independently of what is shown.
        length: behaviours that the model reads.
    """

    def __init__(self, script: Script, *, length: int = SEQUENCE_LENGTH) -> None:
        self._script = script
        self._statistics = ItemStatistics(HALF_LIVES_S, length=length)
        ring = Ring.holding(SEQUENCE_LENGTH)
        self._buffers = [
            SequenceBuffer(ring, user_prefix(user_name(user)), 0, 0, b"") for user in range(len(script.histories))
        ]
        for buffer, history in zip(self._buffers, script.histories, strict=True):
            buffer.append(history.tobytes())
            self._statistics.fold(history)
        self._joiner = Joiner(_NullTable(), window_ms=_WINDOW_MS, lateness_ms=_LATENESS_MS)
        self._open: dict[str, Example] = {}
        self._due: list[tuple[int, int, int]] = []
        self._visit = 0
        self._ticks = 0
        self._order = np.zeros_like(script.permutations)
        self._scores = np.full(script.truth.shape, np.nan, dtype=np.float32)

    def fork(self) -> "Environment":
        """Return an independent copy of the environment as it is now."""
        fork = copy.copy(self)
        fork._buffers = [_copy_of(buffer) for buffer in self._buffers]
        fork._joiner = copy.deepcopy(self._joiner)
        fork._statistics = copy.deepcopy(self._statistics)
        fork._open, fork._due = dict(self._open), list(self._due)
        fork._order, fork._scores = self._order.copy(), self._scores.copy()
        return fork

    def warm_up(self, ranker: Ranker, on_progress: OnProgress) -> None:
        """Show random items until the warm-up ends; `ranker` learns from them, and publishes at the end."""
        while self._now < self._script.scenario.warm_up_end:
            _learn(ranker, self._tick(None, on_progress))
        ranker.publish()

    def rollout(self, ranker: Ranker, update_s: float | None, on_progress: OnProgress) -> Rollout:
        """Let `ranker` rank until the script ends.

        Args:
            ranker: as it is after the warm-up.
            update_s: seconds between two updates, a multiple of the tick; None: the ranker no longer learns.
            on_progress: called after each tick.
        """
        script, first = self._script, self._script.measured
        ticks_between = None if update_s is None else max(1, round(update_s / TICK_S))
        first_tick = self._ticks
        while self._visit < len(script):
            labelled = self._tick(ranker, on_progress)
            if ticks_between is not None:
                _learn(ranker, labelled)
                if (self._ticks - first_tick) % ticks_between == 0:
                    ranker.publish()
        order = self._order[first:]
        shown = order[:, : script.scenario.slots]
        return Rollout(
            users=script.users[first:],
            clicks=(np.take_along_axis(script.would_click[first:], shown, axis=1) & script.looked[first:]).sum(axis=1),
            expected=np.take_along_axis(script.truth[first:], shown, axis=1) @ script.examination,
            best=script.best[first:],
            order=order,
            scores=self._scores[first:],
            would_click=script.would_click[first:],
            slots=script.scenario.slots,
        )

    @property
    def _now(self) -> int:
        return START + round(1000 * TICK_S * self._ticks)

    def _tick(self, ranker: Ranker | None, on_progress: OnProgress) -> list[Example]:
        """Advance by one tick; without a ranker the order is random. Returns the labelled examples."""
        self._ticks += 1
        script, end, labelled, before = self._script, self._now, list[Example](), self._visit
        waiting: dict[int, tuple[int, BehaviorArray]] = {}
        while self._visit < len(script) and (now := int(script.ts[self._visit])) < end:
            visit, user = self._visit, int(script.users[self._visit])
            # A user who comes again may have clicked on the items of the visit before.
            if user in waiting or len(waiting) == _MICRO_BATCH:
                labelled += self._answer(ranker, waiting)
            labelled += self._click_until(now)
            buffer = self._buffers[user]
            if len(behaviors := script.behaviors[script.behavior_ends[visit] : script.behavior_ends[visit + 1]]):
                buffer.append(behaviors.tobytes())
                self._statistics.fold(behaviors)
            waiting[user] = visit, buffer.records(buffer.count - SEQUENCE_LENGTH, buffer.count)
            self._visit += 1
        labelled += self._answer(ranker, waiting)
        labelled += self._click_until(end)
        labelled += self._examples_of(self._joiner.advance(end))
        on_progress(self._visit - before)
        return labelled

    def _answer(self, ranker: Ranker | None, waiting: dict[int, tuple[int, BehaviorArray]]) -> list[Example]:
        script, slots, labelled = self._script, self._script.scenario.slots, list[Example]()
        visits = [visit for visit, _ in waiting.values()]
        examples = []
        for visit, sequence in waiting.values():
            asked = int(script.ts[visit]), script.item_keys[visit], script.category_keys[visit]
            numbers = self._statistics.features(sequence, *asked)
            examples.append(Example(sequence, *asked, numbers=numbers))
        scores = ranker.score(examples, visits) if ranker and examples else None
        for place, (visit, example) in enumerate(zip(visits, examples, strict=True)):
            if scores is None:
                order = script.permutations[visit]
            else:
                self._scores[visit] = scores[place]
                order = np.argsort(-scores[place], kind="stable")
            self._order[visit] = order
            self._open[str(visit)] = example
            labelled += self._examples_of(self._joiner.impression(self._pending(visit, order)))
            for candidate in order[:slots][script.would_click[visit, order[:slots]] & script.looked[visit]].tolist():
                due = int(script.ts[visit] + script.delays[visit, candidate])
                heapq.heappush(self._due, (due, visit, candidate))
        waiting.clear()
        return labelled

    def _pending(self, visit: int, order: Ints) -> PendingImpression:
        script = self._script
        return PendingImpression(
            request_id=str(visit),
            user=user_name(int(script.users[visit])),
            arm="lab",
            ts=int(script.ts[visit]),
            epoch=0,
            version=0,
            slots=script.scenario.slots,
            items=[item_name(item) for item in script.items[visit].tolist()],
            categories=script.category_keys[visit].tolist(),
            probabilities=[],
            ranks=np.argsort(order).tolist(),
            clicked=bytearray(len(order)),
        )

    def _click_until(self, now: int) -> list[Example]:
        """Process the clicks that are due: each is a label, and a behaviour in the user's sequence."""
        script, labelled = self._script, list[Example]()
        while self._due and self._due[0][0] <= now:
            ts, visit, candidate = heapq.heappop(self._due)
            user = int(script.users[visit])
            keys = int(script.item_keys[visit, candidate]), int(script.category_keys[visit, candidate])
            behavior = click_behavior(*keys, ts)
            self._buffers[user].append(behavior.tobytes())
            self._statistics.fold(behavior)
            item = item_name(int(script.items[visit, candidate]))
            click = Click(str(visit), user_name(user), item, ts)
            labelled += self._examples_of(self._joiner.click(click, _NO_RECORD))
        return labelled

    def _examples_of(self, labels: Iterable[LabelledItems | RefusedRecord]) -> list[Example]:
        labelled = []
        for label in labels:
            if isinstance(label, RefusedRecord):
                raise AssertionError(f"no click of a simulated user can be refused: {label.reason}")
            request = label.pending.request_id
            # The labels at the end of the window are the last ones of a request.
            example = self._open[request] if label.label else self._open.pop(request)
            labelled.append(
                replace(
                    example,
                    items=example.items[label.indices],
                    categories=example.categories[label.indices],
                    numbers=None if example.numbers is None else example.numbers[label.indices],
                    positions=np.array([label.pending.ranks[index] for index in label.indices], np.uint16),
                    labels=np.full(len(label.indices), label.label, dtype=np.float32),
                )
            )
        return labelled


class _NullTable:
    """The table in which the joiner would keep open requests for a restart."""

    def put(self, key: str, value: bytes) -> None:
        """Keep nothing: an environment is never restarted."""

    def delete(self, key: str) -> None:
        """Keep nothing."""

    def items(self) -> Iterable[tuple[str, bytes]]:
        """Return nothing."""
        return ()


def _copy_of(buffer: SequenceBuffer) -> SequenceBuffer:
    kept = buffer.records(0, buffer.count)
    return SequenceBuffer(
        Ring.holding(SEQUENCE_LENGTH), buffer.prefix, buffer.count - len(kept), buffer.count, kept.tobytes()
    )


def _learn(ranker: Ranker, labelled: list[Example]) -> None:
    for start in range(0, len(labelled), _TRAIN_BATCH):
        ranker.learn(labelled[start : start + _TRAIN_BATCH])
