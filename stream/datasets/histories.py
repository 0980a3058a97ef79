"""The users' histories while a data set is gone through, and its visits as examples; without Kafka."""

import numpy as np

from model.example import Example
from state.behavior import BehaviorArray, action_key, behaviors, category_key, item_key
from state.layout import Ring, user_prefix
from state.window import Window
from stream.datasets.base import Step, Visit


class Histories:
    """The newest behaviours of every user, as the system keeps them.

    Args:
        length: behaviours of each user.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._ring = Ring.holding(length)
        self._windows: dict[str, Window] = {}

    def example(self, visit: Visit) -> Example:
        """Return a visit with its user's history before it, and its clicks as labels."""
        window = self._window(visit)
        clicked = {click.item for click in visit.clicks}
        candidates = visit.impression.candidates
        return Example(
            sequence=window.records(window.count - self._length, window.count),
            ts=visit.impression.ts,
            items=np.array([item_key(each.item) for each in candidates], dtype=np.uint64),
            categories=np.array([category_key(each.category) for each in candidates], dtype=np.uint32),
            labels=np.array([each.item in clicked for each in candidates], dtype=np.float32),
        )

    def observe(self, step: Step) -> BehaviorArray:
        """Append the behaviours of a step to its user's history, and return them."""
        packed = behaviors(
            [
                (item_key(each.item), category_key(each.category), action_key(each.action), each.ts)
                for each in step.behaviors
            ]
        )
        self._window(step).append(packed.tobytes())
        return packed

    def _window(self, step: Step) -> Window:
        user = step.behaviors[0].user
        return self._windows.setdefault(user, Window(self._ring, user_prefix(user), 0, 0, b""))
