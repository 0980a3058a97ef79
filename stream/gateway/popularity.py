"""What a gateway orders candidates by when no score comes in time: how high its newest answers had each item."""

from collections import OrderedDict
from collections.abc import Sequence

from stream.schema.events import Score

_WEIGHT = 0.05
"""Of a new probability in an item's mean: as much as the twenty newest say."""


class Popularity:
    """Exponentially weighted means of the probabilities that items got, over all users.

    It is a cache of what has passed through, like the answers that are remembered: a gateway that starts knows nothing,
    and several know different things.

    Args:
        most: items that are known at most; those that were not ranked for longest are forgotten.
    """

    def __init__(self, *, most: int = 100_000) -> None:
        self._most = most
        self._means: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Return how many items are known."""
        return len(self._means)

    def add(self, score: Score) -> None:
        """Take note of an answer."""
        means = self._means
        for item, probability in zip(score.items, score.probabilities, strict=True):
            known = means.pop(item, None)
            means[item] = probability if known is None else known + _WEIGHT * (probability - known)
        while len(means) > self._most:
            means.popitem(last=False)

    def order(self, items: Sequence[str]) -> list[int]:
        """Return the places of items, the most popular first; those that are not known follow in their own order."""
        return sorted(range(len(items)), key=lambda place: -self._means.get(items[place], -1.0))
