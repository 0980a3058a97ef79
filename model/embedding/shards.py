"""Which rank owns a key, and what a table has learned, cut for other numbers of ranks.

Keys lie in a fixed number of virtual shards, whatever the number of ranks, and rank r of N owns the shards s ≡ r
(mod N). So what N ranks have saved can be read by any other number.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.embedding.initial import mix
from model.embedding.keys import Keys

SHARDS = 64
"""Virtual shards of every table: more ranks than that own no rows, and only share the computing."""

TableState = dict[str, npt.NDArray[Any]]
"""What `LearnedTable.state` returns, as arrays by name."""

LearnerState = Mapping[str, npt.NDArray[Any]]
"""What `Learner.state` returns: the arrays of table t are named `t/…`."""

_ROWS = "keys", "rows", "vectors", "sums", "touched", "published", "times"
"""Arrays with one entry a row."""


class Rank(NamedTuple):
    """One of so many processes that learn together: the only one, unless said otherwise."""

    number: int = 0
    ranks: int = 1


ONLY = Rank()


def owners(keys: Keys, ranks: int) -> npt.NDArray[np.int64]:
    """Return the rank that owns each of (n,) keys."""
    shards: npt.NDArray[np.int64] = (mix(keys) % np.uint64(SHARDS)).astype(np.int64)
    return shards % ranks


def rows_of(max_rows: int, ranks: int) -> int:
    """Return how many of a table's rows each rank may have; together never more than the table may."""
    return max(1, max_rows // min(ranks, SHARDS))


def merged(parts: Sequence[TableState]) -> TableState:
    """Return the state of one table from those of all ranks, in rank order; of one rank, its own.

    Counts of keys without a row are the larger ones of all ranks: each key was counted by its owner, and is counted by
    all others together at most as a key that nobody owns. So a count is never too small.
    """
    if len(parts) == 1:
        return parts[0]
    state = {name: np.concatenate([part[name] for part in parts]) for name in (*_ROWS, "gone")}
    state["rows"] = np.arange(len(state["keys"]), dtype=np.int32)
    state["counts"] = np.sum([part["counts"] for part in parts], axis=0)
    state["clock"] = np.max([part["clock"] for part in parts], axis=0)
    if all("seen" in part for part in parts):
        state["seen"] = np.max([part["seen"] for part in parts], axis=0)
        state["seen_distinct"] = np.sum([part["seen_distinct"] for part in parts], axis=0)
    return state


def part_of(state: TableState, rank: Rank, max_rows: int) -> TableState:
    """Return what one rank owns of a whole table's state: at most `max_rows` rows, those touched last.

    What happened to keys is counted on by rank 0 alone, so that the ranks' counts still add up.
    """
    if rank.ranks == 1:
        return state
    own = np.flatnonzero(owners(state["keys"], rank.ranks) == rank.number)
    # Shards are not equally full, so a table that was full may have too many rows for one owner.
    newest_first = own[np.argsort(-state["times"][own], kind="stable")]
    kept, over = np.sort(newest_first[:max_rows]), newest_first[max_rows:]
    gone = state["gone"][owners(state["gone"], rank.ranks) == rank.number]
    part = {name: state[name][kept] for name in _ROWS}
    part |= {name: state[name] for name in ("clock", "seen") if name in state}
    if "seen" in state:
        part["seen_distinct"] = -(-state["seen_distinct"] // rank.ranks)
    part["rows"] = np.arange(len(kept), dtype=np.int32)
    part["gone"] = np.concatenate([gone, state["keys"][over[state["published"][over]]]])
    part["counts"] = state["counts"] if rank.number == 0 else np.zeros_like(state["counts"])
    return part


def merged_states(states: Sequence[LearnerState]) -> LearnerState:
    """Return the state that one learner would have, from those of all ranks, in rank order."""
    first, *others = states
    if not others:
        return first
    names = _tables(first)
    tables = {name: merged([_under(name, state) for state in states]) for name in names}
    whole = {name: array for name, array in first.items() if name.rpartition("/")[0] not in names}
    return whole | {f"{name}/{part}": array for name, table in tables.items() for part, array in table.items()}


def state_of(state: LearnerState, rank: Rank) -> LearnerState:
    """Return what one rank's learner would return of a whole state: its rows, and the first one all else."""
    names = _tables(state)
    rest = {} if rank.number else {each: state[each] for each in state if each.rpartition("/")[0] not in names}
    parts = {name: part_of(_under(name, state), rank, len(state[f"{name}/keys"])) for name in names}
    return rest | {f"{name}/{part}": array for name, table in parts.items() for part, array in table.items()}


def _tables(state: LearnerState) -> set[str]:
    return {name.removesuffix("/keys") for name in state if name.endswith("/keys")}


def _under(table: str, state: LearnerState) -> TableState:
    return {name.removeprefix(f"{table}/"): each for name, each in state.items() if name.startswith(f"{table}/")}
