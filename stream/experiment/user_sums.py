"""What users did, arm by arm, kept up to date: the only thing that a verdict is made of."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from stream.experiment.statistics.moments import Array, Moments

BINS = 24
"""Spans of time that are told apart; when they are used up, two neighbours become one."""

_NOBODY, _CROSSED = -1, -2

Ints = npt.NDArray[np.int64]


def fitting(low: int, high: int, width: int) -> int:
    """Return the width, of those that come of doubling `width`, at which `BINS` spans hold all from `low` to `high`."""
    while high // width - low // width >= BINS:
        width *= 2
    return width


def thirds_of(low: int, high: int) -> list[int]:
    """Return the four edges of the thirds of the spans from `low` to before `high`, as equal as whole spans allow."""
    return [low + round((high - low) * part / 3) for part in range(4)]


class _Packed(msgspec.Struct, frozen=True):
    """The form in which sums travel between processes."""

    arms: list[str]
    users: list[str]
    places: bytes
    width: int
    first: int
    counts: bytes
    before: bytes


class UserSums:
    """Items shown and clicked of every user, in equal spans of time, and before the experiment.

    Times are in any unit, the same for all; times within one unit are not told apart. A user takes some 500 bytes. Sums
    of several processes can be merged; the result is the same as if one had been fed with everything, in any order.

    A user who turns up in a second arm is *crossed*, and counts in no arm.
    """

    def __init__(self) -> None:
        self._arms: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self._place = np.full(16, _NOBODY, dtype=np.int16)
        self._counts = np.zeros((16, BINS, 2), dtype=np.int64)
        self._before = np.zeros((16, 2), dtype=np.int64)
        self._width, self._first, self._empty = 1, 0, True

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that users were seen in, sorted."""
        return tuple(sorted(self._arms))

    @property
    def crossed(self) -> int:
        """Users that were seen in more than one arm."""
        return int(np.sum(self._place == _CROSSED))

    def add(self, user: str, arm: str, shown: int, clicks: int, time: float) -> None:
        """Add one impression's items."""
        self.extend(arm, [user], [shown], [clicks], [time])

    def extend(
        self,
        arm: str,
        users: Sequence[str],
        shown: Sequence[int] | Array,
        clicks: Sequence[int] | Array,
        times: Sequence[float] | Array,
    ) -> None:
        """Add impressions of one arm: of each the user, items shown and clicked, and the time."""
        if not len(users):
            return
        moments = np.floor(np.asarray(times, dtype=np.float64)).astype(np.int64)
        self._reach(int(moments.min()), int(moments.max()))
        rows = self._enter(users)
        place = self._arms.setdefault(arm, len(self._arms))
        here = self._place[rows]
        self._place[rows] = np.where((here == _NOBODY) | (here == place), place, _CROSSED)
        bins = moments // self._width - self._first
        np.add.at(self._counts[..., 0], (rows, bins), np.asarray(shown, dtype=np.int64))
        np.add.at(self._counts[..., 1], (rows, bins), np.asarray(clicks, dtype=np.int64))

    def add_before(self, users: Sequence[str], shown: Sequence[int] | Array, clicks: Sequence[int] | Array) -> None:
        """Add what users were shown and clicked before the experiment; they are in no arm yet."""
        rows = self._enter(users)
        np.add.at(self._before[:, 0], rows, np.asarray(shown, dtype=np.int64))
        np.add.at(self._before[:, 1], rows, np.asarray(clicks, dtype=np.int64))

    def merge(self, other: "UserSums") -> None:
        """Add all that `other` has, which stays as it is."""
        users = list(other._rows)
        count = len(users)
        rows = self._enter(users)
        self._before[rows] += other._before[:count]
        if other._empty:
            return
        names = list(other._arms)
        places = np.array([self._arms.setdefault(name, len(self._arms)) for name in names] + [_CROSSED, _NOBODY])
        theirs, mine = places[other._place[:count]], self._place[rows]
        agreed = np.where(mine == _NOBODY, theirs, np.where((theirs == _NOBODY) | (theirs == mine), mine, _CROSSED))
        self._place[rows] = agreed
        used = np.flatnonzero(other._counts[:count].any(axis=(0, 2)))
        starts = (used + other._first) * other._width
        self._reach(int(starts[0]), int(starts[-1]) + other._width - 1)
        for start, span in zip(starts.tolist(), used.tolist(), strict=True):
            self._counts[rows, start // self._width - self._first] += other._counts[:count, span]

    def moments(self, arm: str) -> Moments:
        """Return the moments of an arm's users: (shown, clicks, shown before, clicks before)."""
        rows = self._members(arm)
        return Moments.of(np.concatenate([self._counts[rows].sum(axis=1), self._before[rows]], axis=1))

    def thirds(self, arm: str) -> Moments:
        """Return the moments of (shown, clicks) in the first, in the second and in the last third of the time.

        The thirds are as equal as the spans allow; with fewer than three spans some hold nothing.
        """
        low, high = self._used()
        edges = thirds_of(low, high)
        counts = self._counts[self._members(arm)]
        parts = [counts[:, edges[part] : edges[part + 1]].sum(axis=1) for part in range(3)]
        return Moments.of(np.concatenate(parts, axis=1))

    @property
    def edges(self) -> list[int]:
        """Times at which the spans begin, and the time at which the last one ends."""
        low, high = self._used()
        return [(span + self._first) * self._width for span in range(low, high + 1)]

    def per_span(self, arm: str) -> Moments:
        """Return the (spans,) moments of (shown, clicks) within each span, over all users seen by its end."""
        counts = self._counts[self._members(arm)]
        entered = self._entered(counts)
        low, high = self._used()
        return Moments.stack([Moments.of(counts[entered <= span, span]) for span in range(low, high)], 2)

    def cumulative(self, arm: str) -> Moments:
        """Return the (spans,) moments, as of `moments`, by the end of each span, over all users seen by then."""
        rows = self._members(arm)
        done, before = np.cumsum(self._counts[rows], axis=1), self._before[rows]
        entered = self._entered(self._counts[rows])
        low, high = self._used()
        vectors = (np.concatenate([done[:, span], before], axis=1)[entered <= span] for span in range(low, high))
        return Moments.stack([Moments.of(each) for each in vectors], 4)

    def own_thirds(self, arm: str) -> Moments:
        """Return the moments of (shown, clicks) in the first and in the last third of the users' own time.

        A user's own time begins with their first visit; it is told no finer than the spans. Users whose own time is too
        short for a last third have done nothing in it.
        """
        low, high = self._used()
        length, third = max(1, high - low), max(1, round((high - low) / 3))
        counts = self._counts[self._members(arm), low : low + length]
        places = (counts[..., 0] > 0).argmax(axis=1)[:, None] + np.arange(length)
        own = np.take_along_axis(counts, (places % length)[..., None], axis=1) * (places < length)[..., None]
        return Moments.of(np.concatenate([own[:, :third].sum(axis=1), own[:, length - third :].sum(axis=1)], axis=1))

    @property
    def latecomers(self) -> float:
        """Share of the users in an arm whose first visit was after the first third of the time; NaN without any."""
        low, high = self._used()
        visited = self._counts[self._place >= 0, low:high, 0] > 0
        if not len(visited):
            return float("nan")
        return float(np.mean(visited.argmax(axis=1) >= max(1, round((high - low) / 3))))

    def users(self, arm: str) -> list[str]:
        """Return the users of an arm."""
        rows = set(self._members(arm).tolist())
        return [user for user, row in self._rows.items() if row in rows]

    def encode(self) -> bytes:
        """Return the sums as MessagePack, for another process to decode and merge."""
        count = len(self._rows)
        return msgspec.msgpack.encode(
            _Packed(
                list(self._arms),
                list(self._rows),
                self._place[:count].astype("<i2").tobytes(),
                self._width,
                0 if self._empty else self._first,
                self._counts[:count].astype("<i8").tobytes(),
                self._before[:count].astype("<i8").tobytes(),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> "UserSums":
        """Return sums that `encode` has packed.

        Raises:
            ValueError: for bytes that are none, or whose parts do not fit together.
        """
        packed = msgspec.msgpack.decode(data, type=_Packed)
        sums, count = cls(), len(packed.users)
        rows = sums._enter(packed.users)
        place = np.frombuffer(packed.places, "<i2")
        counts = np.frombuffer(packed.counts, "<i8").reshape(count, BINS, 2)
        if len(sums._rows) < count or packed.width < 1 or np.any((place < _CROSSED) | (place >= len(packed.arms))):
            raise ValueError("sums of users whose parts do not fit together")
        sums._arms = {name: number for number, name in enumerate(packed.arms)}
        sums._place[rows], sums._counts[rows] = place, counts
        sums._before[rows] = np.frombuffer(packed.before, "<i8").reshape(count, 2)
        sums._width, sums._first, sums._empty = packed.width, packed.first, not counts.any()
        return sums

    @staticmethod
    def _entered(counts: Ints) -> npt.NDArray[np.intp]:
        """(users,) the first span in which each was shown anything; `BINS` for none."""
        seen = counts[..., 0] > 0
        entered: npt.NDArray[np.intp] = np.where(seen.any(axis=1), seen.argmax(axis=1), BINS)
        return entered

    def _members(self, arm: str) -> npt.NDArray[np.intp]:
        return np.flatnonzero(self._place == self._arms[arm]) if arm in self._arms else np.array([], dtype=np.intp)

    def _used(self) -> tuple[int, int]:
        """Return the first bin that holds anything, and the one behind the last."""
        used = np.flatnonzero(self._counts.any(axis=(0, 2)))
        return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)

    def _enter(self, users: Sequence[str]) -> Ints:
        """Return the rows of users, making those that are missing."""
        rows = self._rows
        found = np.array([rows.setdefault(user, len(rows)) for user in users], dtype=np.int64)
        if (size := len(rows)) > (had := len(self._place)):
            more = max(size, 2 * had) - had
            self._place = np.concatenate([self._place, np.full(more, _NOBODY, dtype=np.int16)])
            self._counts = np.concatenate([self._counts, np.zeros((more, BINS, 2), dtype=np.int64)])
            self._before = np.concatenate([self._before, np.zeros((more, 2), dtype=np.int64)])
        return found

    def _reach(self, low: int, high: int) -> None:
        """See that the bins hold the times from `low` to `high`: move them, and join neighbours as often as needed."""
        if self._empty:
            self._first, self._empty = low // self._width, False
        used = np.flatnonzero(self._counts.any(axis=(0, 2)))
        if len(used):
            low = min(low, (int(used[0]) + self._first) * self._width)
            high = max(high, (int(used[-1]) + self._first + 1) * self._width - 1)
        width = fitting(low, high, self._width)
        first = self._first if width == self._width else low // width
        if not first <= low // width or high // width >= first + BINS:
            first = low // width
        if (width, first) == (self._width, self._first):
            return
        moved = np.zeros_like(self._counts)
        for span in used.tolist():
            moved[:, (span + self._first) * self._width // width - first] += self._counts[:, span]
        self._counts, self._width, self._first = moved, width, first
