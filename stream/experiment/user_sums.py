"""Items shown and clicked of every user, by arm: what a report's verdict is computed from."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stream.experiment.spans import BINS, Ints, TimeSpans
from stream.experiment.statistics.moments import Array, Moments

_NOBODY, _CROSSED = -1, -2


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
        self._spans = TimeSpans()

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
        self._extend_to(self._spans.extended_to(int(moments.min()), int(moments.max())))
        rows = self._enter(users)
        place = self._arms.setdefault(arm, len(self._arms))
        here = self._place[rows]
        self._place[rows] = np.where((here == _NOBODY) | (here == place), place, _CROSSED)
        bins = self._spans.place(moments)
        np.add.at(self._counts[..., 0], (rows, bins), np.asarray(shown, dtype=np.int64))
        np.add.at(self._counts[..., 1], (rows, bins), np.asarray(clicks, dtype=np.int64))

    def add_before(self, users: Sequence[str], shown: Sequence[int] | Array, clicks: Sequence[int] | Array) -> None:
        """Add what users were shown and clicked in the pre-experiment period; this puts nobody into an arm."""
        rows = self._enter(users)
        np.add.at(self._before[:, 0], rows, np.asarray(shown, dtype=np.int64))
        np.add.at(self._before[:, 1], rows, np.asarray(clicks, dtype=np.int64))

    def merge(self, other: "UserSums") -> None:
        """Add all that `other` has, which stays as it is."""
        users = list(other._rows)
        count = len(users)
        rows = self._enter(users)
        self._before[rows] += other._before[:count]
        if not other._spans.used:
            return
        names = list(other._arms)
        places = np.array([self._arms.setdefault(name, len(self._arms)) for name in names] + [_CROSSED, _NOBODY])
        theirs, mine = places[other._place[:count]], self._place[rows]
        agreed = np.where(mine == _NOBODY, theirs, np.where((theirs == _NOBODY) | (theirs == mine), mine, _CROSSED))
        self._place[rows] = agreed
        self._extend_to(self._spans.union(other._spans))
        for place, wider in enumerate(other._spans.places_in(self._spans).tolist()):
            self._counts[rows, wider] += other._counts[:count, place]

    def moments(self, arm: str) -> Moments:
        """Return the moments of an arm's users: (shown, clicks, shown before, clicks before)."""
        rows = self._members(arm)
        return Moments.of(np.concatenate([self._counts[rows].sum(axis=1), self._before[rows]], axis=1))

    def thirds(self, arm: str) -> Moments:
        """Return the moments of (shown, clicks) in the first, in the second and in the last third of the time.

        The thirds are as equal as the spans allow; with fewer than three spans some hold nothing.
        """
        edges = self._spans.third_edges
        counts = self._counts[self._members(arm)]
        parts = [counts[:, edges[part] : edges[part + 1]].sum(axis=1) for part in range(3)]
        return Moments.of(np.concatenate(parts, axis=1))

    @property
    def edges(self) -> list[int]:
        """Times at which the spans begin, and the time at which the last one ends."""
        return self._spans.edges

    def per_span(self, arm: str) -> Moments:
        """Return the (spans,) moments of (shown, clicks) within each span, over all users seen by its end."""
        counts = self._counts[self._members(arm)]
        entered = self._entered(counts)
        used = range(self._spans.used)
        return Moments.stack([Moments.of(counts[entered <= span, span]) for span in used], 2)

    def cumulative(self, arm: str) -> Moments:
        """Return the (spans,) moments, as of `moments`, by the end of each span, over all users seen by then."""
        rows = self._members(arm)
        done, before = np.cumsum(self._counts[rows], axis=1), self._before[rows]
        entered = self._entered(self._counts[rows])
        used = range(self._spans.used)
        vectors = (np.concatenate([done[:, span], before], axis=1)[entered <= span] for span in used)
        return Moments.stack([Moments.of(each) for each in vectors], 4)

    def thirds_since_first_visit(self, arm: str) -> Moments:
        """Return the moments of (shown, clicks) in the first and in the last third of the users' own time.

        A user's own time begins with their first visit; it is told no finer than the spans. Users whose own time is too
        short for a last third have done nothing in it.
        """
        length, third = max(1, self._spans.used), max(1, round(self._spans.used / 3))
        counts = self._counts[self._members(arm), :length]
        places = (counts[..., 0] > 0).argmax(axis=1)[:, None] + np.arange(length)
        own = np.take_along_axis(counts, (places % length)[..., None], axis=1) * (places < length)[..., None]
        return Moments.of(np.concatenate([own[:, :third].sum(axis=1), own[:, length - third :].sum(axis=1)], axis=1))

    @property
    def late_share(self) -> float:
        """Share of the users in an arm whose first visit was after the first third of the time; NaN without any."""
        visited = self._counts[self._place >= 0, : max(1, self._spans.used), 0] > 0
        if not len(visited):
            return float("nan")
        return float(np.mean(visited.argmax(axis=1) >= max(1, round(self._spans.used / 3))))

    def users(self, arm: str) -> list[str]:
        """Return the users of an arm."""
        rows = set(self._members(arm).tolist())
        return [user for user, row in self._rows.items() if row in rows]

    @staticmethod
    def _entered(counts: Ints) -> npt.NDArray[np.intp]:
        """(users,) the first span in which each was shown anything; `BINS` for none."""
        seen = counts[..., 0] > 0
        entered: npt.NDArray[np.intp] = np.where(seen.any(axis=1), seen.argmax(axis=1), BINS)
        return entered

    def _members(self, arm: str) -> npt.NDArray[np.intp]:
        return np.flatnonzero(self._place == self._arms[arm]) if arm in self._arms else np.array([], dtype=np.intp)

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

    def _extend_to(self, spans: TimeSpans) -> None:
        """Go over to spans that hold the present ones."""
        if (spans.width, spans.first) != (self._spans.width, self._spans.first):
            moved = np.zeros_like(self._counts)
            for place, wider in enumerate(self._spans.places_in(spans).tolist()):
                moved[:, wider] += self._counts[:, place]
            self._counts = moved
        self._spans = spans
