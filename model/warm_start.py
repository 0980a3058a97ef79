"""A model that begins with what another one has learned: what fits by name is taken over, the rest is as in a new one.

Tables are taken over whole, with the times at which rows were touched. So are layers of the same name and shape. Of the
layers that read numbers by name (the head's first, the crosses, the scales), what both models read is taken over, and
what is new begins at zero. In the head, what reads from a layer that begins afresh begins afresh as well: its weights
would be of other inputs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.schema_change import Axes, adapted
from model.network import Network
from model.predict import table_initials
from model.serialization.update import Tensors
from model.spec import ModelSpec

_PARTS = ("network/", "served/")
_MOMENTS = ("exp_avg", "exp_avg_sq")
_TABLE_PARTS = ("keys", "rows", "vectors", "sums", "times", "clock")
_HEAD = re.compile(r"head\.(\d+)\.")
_STEPS, _FOLLOWED = 2, 6
"""Places among the counters of a learner's state."""

State = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class WarmStart:
    """The state of a model that begins with what another one has learned.

    Attributes:
        state: for `Learner.load_state`.
        rows: table → rows that were taken over.
        kept: names of the parameters and buffers that were taken over whole.
        partly: parameter → how many of its inputs were taken over, and how many it has.
        fresh: names of the parameters, buffers and tables that are as in a new model.
        unused: names of what the other one has and this one does not.
    """

    state: State
    rows: Mapping[str, int]
    kept: Sequence[str]
    partly: Mapping[str, tuple[int, int]]
    fresh: Sequence[str]
    unused: Sequence[str]


def warm_start(learned: Tensors, source: ModelSpec, new: Tensors, target: ModelSpec) -> WarmStart:
    """Return what a new model takes over from one that has learned.

    Args:
        learned: `Learner.state` of the model that has learned.
        source: its specification.
        new: `Learner.state` of the new one.
        target: its specification.
    """
    before, now = Network(source).axes, Network(target).axes
    saved, initial = _under("network/", learned), _under("network/", new)
    fits = _fitting(saved, initial, before, now)
    partly = {name: found for name in fits if (found := _inputs(name, initial[name], before, now)) is not None}
    state: State = dict(new)
    for part in _PARTS:
        chosen = {name: each for name, each in _under(part, learned).items() if name in fits}
        state |= _named(part, adapted(chosen, _under(part, new), before, now))
    for moment in _MOMENTS:
        prefix = f"adam/{moment}/"
        chosen = {name: each for name, each in _under(prefix, learned).items() if name in fits}
        zeros = {name: np.zeros_like(initial[name]) for name in chosen}
        state |= _named(prefix, adapted(chosen, zeros, before, now))
    state |= {f"adam/step/{name}": each for name, each in _under("adam/step/", learned).items() if name in fits}
    rows = {}
    for table in _fitting_tables(learned, source, new, target):
        state |= {f"{table}/{part}": learned[f"{table}/{part}"] for part in _TABLE_PARTS}
        rows[table] = len(learned[f"{table}/keys"])
        state |= {f"{table}/{part}": np.zeros(rows[table], np.bool_) for part in ("touched", "published")}
    fresh = [name for name in initial if name not in fits]
    fresh += [f"table {name}" for name in table_initials(target, 0) if name not in rows]
    state["counters"] = learned["counters"].copy()
    if fresh or partly:  # what predicts follows what is new as quickly as at any start
        state["counters"][[_STEPS, _FOLLOWED]] = 0
    unused = [name for name in saved if name not in initial]
    unused += [f"table {name}" for name in table_initials(source, 0) if name not in table_initials(target, 0)]
    return WarmStart(state, rows, [name for name in fits if name not in partly], partly, fresh, unused)


def _fitting(saved: Tensors, initial: Tensors, before: Axes, now: Axes) -> dict[str, None]:
    """Return the names of what can be taken over, whole or in part, in the order of the network."""
    fits: dict[str, None] = {}
    afresh = float("inf")
    for name, own in initial.items():
        layer = int(found[1]) if (found := _HEAD.match(name)) else -1
        if layer < afresh and name in saved and _fits(name, saved[name], own, before, now):
            fits[name] = None
        elif layer >= 0:
            afresh = min(afresh, layer)
    return {name: None for name in fits if not (found := _HEAD.match(name)) or int(found[1]) < afresh}


def _fits(name: str, saved: npt.NDArray[Any], own: npt.NDArray[Any], before: Axes, now: Axes) -> bool:
    if name not in before or name not in now:
        return saved.shape == own.shape
    axes = zip(saved.shape, own.shape, before[name], now[name], strict=True)
    return all(
        theirs == ours if names is None or others is None else bool(set(names) & set(others))
        for theirs, ours, others, names in axes
    )


def _inputs(name: str, own: npt.NDArray[Any], before: Axes, now: Axes) -> tuple[int, int] | None:
    """Return how many inputs a parameter takes over, of how many; None for all."""
    if name not in now or (names := now[name][-1]) is None:
        return None
    common = len(set(names) & set(before[name][-1] or ()))
    return None if common == own.shape[-1] else (common, own.shape[-1])


def _fitting_tables(learned: Tensors, source: ModelSpec, new: Tensors, target: ModelSpec) -> Iterator[str]:
    """Yield the tables of both whose vectors are as wide, and mean the same: those of `popularity` are numbers."""
    theirs = table_initials(source, 0)
    for name, initial in table_initials(target, 0).items():
        means_the_same = name in theirs and (theirs[name] is None) == (initial is None)
        if means_the_same and learned[f"{name}/vectors"].shape[1] == new[f"{name}/vectors"].shape[1]:
            yield name


def _under(prefix: str, state: Tensors) -> State:
    return {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}


def _named(prefix: str, tensors: Mapping[str, npt.NDArray[Any]]) -> State:
    return {prefix + name: each for name, each in tensors.items()}
