"""Moments of users over spans of time: all that a verdict needs, of a size that does not grow with the users.

What a user was shown and clicked in each of `BINS` spans of time is a vector. Number, sum and sum of outer products of
these vectors give the moments of any sums of spans: the whole, thirds of it, all until a time. So whoever keeps the
users' own vectors (one row each, anywhere) need only say what a vector was and what it is now. All are whole numbers,
hence exact, and the moments of several parts of the users add up.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from stream.experiment.spans import BINS, Ints, TimeSpans
from stream.experiment.statistics.moments import Array, Moments

Spans = Mapping[int, Sequence[int]]
"""A user's row: number of the span (time // width) → [shown, clicks]."""


class PackedArm(msgspec.Struct, frozen=True, array_like=True):
    """An arm's moments; little-endian int64: (n,) newcomers, (n, 2) sum, upper triangle of the (2n, 2n) products."""

    newcomers: bytes
    total: bytes
    outer: bytes


class PackedSpans(msgspec.Struct, frozen=True, array_like=True):
    """The form in which moments are kept and travel: n spans of `width`, of which `first` is the number of the first.

    With two arms and all spans in use it takes 20 kB.
    """

    width: int = 1
    first: int = 0
    used: int = 0
    crossed: int = 0
    arms: dict[str, PackedArm] = {}


class _Arm:
    """Users by the span they were first seen in, sum of their vectors, and sum of these vectors' outer products."""

    def __init__(self) -> None:
        self.newcomers = np.zeros(BINS, dtype=np.int64)
        self.total = np.zeros((BINS, 2), dtype=np.int64)
        self.outer = np.zeros((BINS, 2, BINS, 2), dtype=np.int64)

    def add(self, other: "_Arm", places: Ints) -> None:
        """Add an arm whose span i is span `places[i]` here; several may become one."""
        count = len(places)
        np.add.at(self.newcomers, places, other.newcomers[:count])
        np.add.at(self.total, places, other.total[:count])
        half = np.zeros((BINS, 2, count, 2), dtype=np.int64)
        np.add.at(half, places, other.outer[:count, :, :count])
        np.add.at(self.outer.transpose(2, 3, 0, 1), places, half.transpose(2, 3, 0, 1))


class SpanMoments:
    """Moments of all users of each arm, told apart by spans of time; what `verdict.analyse` asks for.

    Spans are as in `user_sums.UserSums`: the same outcomes give the same spans, and the same verdict.

    Attributes:
        crossed: users who were seen in two arms, and count in none.
    """

    def __init__(self) -> None:
        self._spans, self.crossed = TimeSpans(), 0
        self._arms: dict[str, _Arm] = {}

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that users were seen in, sorted."""
        return tuple(sorted(self._arms))

    @property
    def width(self) -> int:
        """Length of a span, in units of time."""
        return self._spans.width

    @property
    def edges(self) -> list[int]:
        """Times at which the spans begin, and the time at which the last one ends."""
        return self._spans.edges

    def extend_to(self, low: int, high: int) -> None:
        """See that the spans hold the times from `low` to `high`; neighbours become one as often as needed."""
        self._extend_to(self._spans.extended_to(low, high))

    def change(self, arm: str, before: Sequence[Spans], after: Sequence[Spans]) -> None:
        """Put vectors of an arm's users in the place of others; both within the spans and of this `width`.

        Args:
            arm: its name.
            before: what was counted of users; nothing for who is new.
            after: what is to be counted; nothing for who leaves the arm.
        """
        here = self._arm(arm)
        for rows, sign in ((before, -1), (after, 1)):
            vectors = self._vectors(rows)
            seen = vectors[:, :, 0] > 0
            entered = seen.argmax(axis=1)[seen.any(axis=1)]
            here.newcomers += sign * np.bincount(entered, minlength=BINS)
            here.total += sign * vectors.sum(axis=0)
            flat = vectors.reshape(-1, 2 * BINS)
            here.outer += sign * (flat.T @ flat).reshape(BINS, 2, BINS, 2)

    def merge(self, other: "SpanMoments") -> None:
        """Add other users, who are none of these; `other` stays as it is."""
        self.crossed += other.crossed
        self._extend_to(self._spans.union(other._spans))
        places = other._spans.places_in(self._spans)
        for name, arm in other._arms.items():
            self._arm(name).add(arm, places)

    def moments(self, arm: str) -> Moments:
        """Return the moments of an arm's users: (shown, clicks)."""
        return self._within(arm, [0, self._spans.used])

    def thirds(self, arm: str) -> Moments:
        """Return the moments of (shown, clicks) in the first, in the second and in the last third of the time."""
        return self._within(arm, self._spans.third_edges)

    def cumulative(self, arm: str) -> Moments:
        """Return the (used,) moments of (shown, clicks) by the end of each span, over all users seen by then."""
        here = self._arms.get(arm, _Arm())
        until = np.cumsum(np.cumsum(here.outer, axis=0), axis=2)
        spans = np.arange(self._spans.used)
        return Moments(
            np.cumsum(here.newcomers)[spans].astype(np.float64),
            np.cumsum(here.total, axis=0)[spans].astype(np.float64),
            until[spans, :, spans, :].astype(np.float64),
        )

    def per_span(self, arm: str) -> Moments:
        """Return the (used,) moments of (shown, clicks) within each span, over all users seen by its end."""
        here, spans = self._arms.get(arm, _Arm()), np.arange(self._spans.used)
        return Moments(
            np.cumsum(here.newcomers)[spans].astype(np.float64),
            here.total[spans].astype(np.float64),
            here.outer[spans, :, spans, :].astype(np.float64),
        )

    def pack(self) -> PackedSpans:
        """Return the moments as they are kept."""
        spans, used = self._spans, self._spans.used
        upper = np.triu_indices(2 * used)

        def packed(arm: _Arm) -> PackedArm:
            outer = arm.outer[:used, :, :used].reshape(2 * used, 2 * used)[upper]
            return PackedArm(*map(_bytes, (arm.newcomers[:used], arm.total[:used], outer)))

        arms = {name: packed(arm) for name, arm in self._arms.items()}
        return PackedSpans(spans.width, spans.first, used, self.crossed, arms)

    @classmethod
    def unpack(cls, packed: PackedSpans) -> "SpanMoments":
        """Return what was packed.

        Raises:
            ValueError: for parts that do not fit together.
        """
        if packed.width < 1 or not 0 <= packed.used <= BINS:
            raise ValueError(f"{packed.used} spans of {packed.width}")
        whole, used = cls(), packed.used
        whole._spans, whole.crossed = TimeSpans(packed.width, packed.first, used), packed.crossed
        upper = np.triu_indices(2 * used)
        for name, each in packed.arms.items():
            arm, square = whole._arm(name), np.zeros((2 * used, 2 * used), dtype=np.int64)
            square[upper] = _ints(each.outer, len(upper[0]))
            square.T[upper] = square[upper]
            arm.newcomers[:used] = _ints(each.newcomers, used)
            arm.total[:used] = _ints(each.total, 2 * used).reshape(used, 2)
            arm.outer[:used, :, :used] = square.reshape(used, 2, used, 2)
        return whole

    def _extend_to(self, spans: TimeSpans) -> None:
        """Go over to spans that hold the present ones."""
        if (spans.width, spans.first) != (self._spans.width, self._spans.first):
            places = self._spans.places_in(spans)
            before, self._arms = self._arms, {}
            for name, arm in before.items():
                self._arm(name).add(arm, places)
        self._spans = spans

    def _arm(self, name: str) -> _Arm:
        if name not in self._arms:
            self._arms[name] = _Arm()
        return self._arms[name]

    def _vectors(self, rows: Sequence[Spans]) -> Ints:
        """(users, BINS, 2) what rows say."""
        vectors = np.zeros((len(rows), BINS, 2), dtype=np.int64)
        entries = [(place, span, *counts) for place, row in enumerate(rows) for span, counts in row.items()]
        table = np.array(entries, dtype=np.int64).reshape(-1, 4)
        vectors[table[:, 0], table[:, 1] - self._spans.first] = table[:, 2:]
        return vectors

    def _within(self, arm: str, edges: Sequence[int]) -> Moments:
        """Moments of (shown, clicks) between each edge and the next, one after the other."""
        here = self._arms.get(arm, _Arm())
        parts = np.zeros((len(edges) - 1, BINS))
        for part, (low, high) in enumerate(pairwise(edges)):
            parts[part, low:high] = 1
        size = 2 * len(parts)
        return Moments(
            np.asarray(float(here.newcomers.sum())),
            (parts @ here.total).reshape(size),
            np.einsum("ps,sitj,qt->piqj", parts, here.outer.astype(np.float64), parts).reshape(size, size),
        )


def _bytes(values: Array) -> bytes:
    return values.astype("<i8").tobytes()


def _ints(data: bytes, count: int) -> Ints:
    values: Ints = np.frombuffer(data, "<i8").astype(np.int64)
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers where {count} belong")
    return values
