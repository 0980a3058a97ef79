"""Parameters learned with other features: what both models have is taken over, by the names of its columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from state.feature import Feature

Array = npt.NDArray[Any]
Axes = Mapping[str, tuple[Sequence[str] | None, ...]]
"""Parameter → for each of its axes the names of what lies along it; None for an axis that features do not change."""


def adapted(saved: Mapping[str, Array], initial: Mapping[str, Array], before: Axes, now: Axes) -> dict[str, Array]:
    """Return the parameters (or their moments) of a model with other features.

    Args:
        saved: of the model as it was, by name.
        initial: of a model as it is now that has learned nothing.
        before: what lies along the axes of `saved`.
        now: what lies along those of `initial`.

    Returns:
        As `initial`, with everything that `saved` has; columns of new features are zero, those of buffers as at first.
    """
    result = {}
    for name, fresh in initial.items():
        if name not in saved:
            result[name] = fresh
        elif name not in now or name not in before:
            result[name] = saved[name]
        else:
            # Weights of what is new begin at zero, whatever they are in a model that is all new.
            changed = fresh.copy() if fresh.ndim == 1 else np.zeros_like(fresh)
            axes = zip(fresh.shape, now[name], before[name], strict=True)
            own, theirs = zip(*(_common(size, new, old) for size, new, old in axes), strict=True)
            changed[np.ix_(*own)] = saved[name][np.ix_(*theirs)]
            result[name] = changed
    return result


def _common(size: int, new: Sequence[str] | None, old: Sequence[str] | None) -> tuple[Array, Array]:
    """Return where along an axis lies what both models have: in the new one, and in the old one."""
    if new is None or old is None:
        return np.arange(size), np.arange(size)
    places = {name: place for place, name in enumerate(old)}
    pairs = [(place, places[name]) for place, name in enumerate(new) if name in places]
    own, theirs = np.array(pairs, np.int64).reshape(-1, 2).T
    return own, theirs


def described(before: Sequence[Feature], now: Sequence[Feature]) -> dict[str, str]:
    """Return which features were added, removed and changed, by these words; only those that there are."""
    old, new = ({feature.name: feature for feature in features} for features in (before, now))
    found = {
        "added": new.keys() - old.keys(),
        "removed": old.keys() - new.keys(),
        "changed": {name for name in old.keys() & new.keys() if old[name] != new[name]},
    }
    return {word: ",".join(sorted(names)) for word, names in found.items() if names}
