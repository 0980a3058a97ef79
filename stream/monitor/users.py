"""What each user of a partition was shown and clicked, and the moments of it over users; knows no Faust and no Kafka.

Users' rows and the moments are separate values, and a crash may come between their writes. Each holds the offset up to
which it has counted. The moments are written first, then the users, then the windows, which decide what of an outcome
is new. So after a crash the moments are at least as far as every user, and a user at least as far as the windows. A
record that is read again is counted only by those that are not that far.
"""

import math
from collections.abc import Callable, Container, Iterable

from msgspec import Struct
from xxhash import xxh32_intdigest

from stream.experiment.span_moments import PackedSpans, SpanMoments, Spans
from stream.schema.events import Outcome
from stream.settings import Settings, Stage

WHOLE = Stage(-math.inf, math.inf, {})
"""All times."""


def experiment_id(settings: Settings, stage: Stage = WHOLE) -> int:
    """Return the number that tells an experiment from others: of its name and salt, the ramp's stage, and who explores.

    Those of an experiment without ramp and bandit is the one of name and salt alone.
    """
    step = "" if stage.begin == WHOLE.begin else f":{stage.begin:.0f}"
    step += f":explore={settings.bandit.explore:g}" if settings.bandit.on else ""
    return xxh32_intdigest(f"{settings.experiment.name}:{settings.salt}{step}".encode())


class UserRow(Struct, array_like=True):
    """A user's row.

    Attributes:
        experiment: whose outcomes are counted; a row of another experiment is none.
        offset: the last offset of the partition that it has counted.
        arm: None for a user who was seen in two.
        width: length of a span, ms; a power of two.
        spans: number of the span (ts // width), shown, clicks.
        begun: as of the partition's progress when it was counted; a row of another `begun` is none.
        since: how far `behaviors` had been read for the first outcome in it; 0 in rows from before it was kept.
    """

    experiment: int
    offset: int
    arm: str | None
    width: int
    spans: list[tuple[int, int, int]]
    begun: int = 0
    since: int = 0


class PartitionMoments(Struct, array_like=True):
    """The moments of a partition's users, up to an offset, in one experiment and since counting began."""

    experiment: int
    offset: int = -1
    spans: PackedSpans = PackedSpans()
    begun: int = 0


class _Row:
    """A user's row while a batch is counted. Spans have the width that the row was loaded with."""

    def __init__(self, offset: int, arm: str | None, width: int, spans: dict[int, tuple[int, int]], since: int) -> None:
        self.offset, self.arm, self.width, self.spans, self.since = offset, arm, width, spans, since

    def add(self, offset: int, arm: str, ts: int, labels: Iterable[int]) -> None:
        self.offset = offset
        if self.arm != arm:
            self.arm, self.spans = None, {}
        if self.arm is not None:
            shown, clicks = self.spans.get(ts // self.width, (0, 0))
            for label in labels:
                shown += 1
                clicks += label
            self.spans[ts // self.width] = shown, clicks

    def copy(self) -> "_Row":
        return _Row(self.offset, self.arm, self.width, dict(self.spans), self.since)

    def widened(self, width: int) -> "_Row":
        """Return the row with spans of a width that is a multiple of its own; itself if it is the same."""
        if width == self.width:
            return self
        spans: dict[int, tuple[int, int]] = {}
        for span, (shown, clicks) in self.spans.items():
            wider = span * self.width // width
            before = spans.get(wider, (0, 0))
            spans[wider] = before[0] + shown, before[1] + clicks
        return _Row(self.offset, self.arm, width, spans, self.since)


class UserCounter:
    """The users of a partition while a batch is counted.

    Args:
        experiment: what is counted; sums and rows of another one are none.
        sums: the partition's, where there are any.
        load: name → row, where there is one.
        begun: of the partition's progress; sums and rows of another one are none as well.
        void: says of a user and how far `behaviors` had been read whether that was before the user was erased.
        stage: the stage of a ramp; outcomes of impressions at other times do not count.
        users: those who count; None for all.
    """

    def __init__(
        self,
        experiment: int,
        sums: PartitionMoments | None,
        load: Callable[[str], UserRow | None],
        *,
        begun: int = 0,
        void: Callable[[str, int], bool] = lambda _user, _read_to: False,
        stage: Stage = WHOLE,
        users: Container[str] | None = None,
    ) -> None:
        self._users = users
        self._void = void
        self._stage = stage
        self._experiment = experiment
        self._begun = begun
        self._known = sums.offset if sums and (sums.experiment, sums.begun) == (experiment, begun) else -1
        self._moments = SpanMoments.unpack(sums.spans if sums and self._known >= 0 else PackedSpans())
        self._load = load
        self._rows: dict[str, _Row | None] = {}
        self._before: dict[str, _Row | None] = {}
        self._touched: set[str] = set()
        self._times: list[int] = []

    def add(self, offset: int, outcome: Outcome, new: list[int]) -> None:
        """Count what is new of an outcome, by index: nothing of what was counted before, or is void."""
        user = outcome.user
        if self._void(user, outcome.read_to) or not self._stage.holds(outcome.ts):
            return
        if self._users is not None and user not in self._users:
            return
        row = self._row(user) if new or offset <= self._known else None
        if row is not None:
            self._touched.add(user)
        if not new or (row is not None and offset <= row.offset):
            return
        if offset > self._known:
            self._times.append(outcome.ts)
            if user not in self._before:
                self._before[user] = row and row.copy()
        if row is None:
            row = self._rows[user] = _Row(-1, outcome.arm, self._moments.width, {}, outcome.read_to)
            self._touched.add(user)
        row.add(offset, outcome.arm, outcome.ts, (outcome.labels[index] for index in new))

    def closed(self, offset: int) -> tuple[PartitionMoments, dict[str, UserRow]]:
        """Return the sums up to an offset, and the rows to write."""
        moments = self._moments
        if self._times:
            moments.extend_to(min(self._times), max(self._times))
        rows = {user: row.widened(moments.width) for user in self._touched if (row := self._rows[user])}
        before: dict[str, list[Spans]] = {}
        after: dict[str, list[Spans]] = {}
        for user, old in self._before.items():
            if old and old.arm is not None:
                before.setdefault(old.arm, []).append(old.widened(moments.width).spans)
            if (arm := rows[user].arm) is not None:
                after.setdefault(arm, []).append(rows[user].spans)
            elif old is None or old.arm is not None:
                moments.crossed += 1
        for arm in before.keys() | after.keys():
            moments.change(arm, before.get(arm, []), after.get(arm, []))
        written = {
            user: UserRow(
                self._experiment,
                row.offset,
                row.arm,
                row.width,
                [(span, shown, clicks) for span, (shown, clicks) in sorted(row.spans.items())],
                self._begun,
                row.since,
            )
            for user, row in rows.items()
        }
        return PartitionMoments(self._experiment, max(offset, self._known), moments.pack(), self._begun), written

    def _row(self, user: str) -> _Row | None:
        if user not in self._rows:
            found = self._load(user)
            self._rows[user] = None
            if found is not None and (found.experiment, found.begun) == (self._experiment, self._begun):
                spans = {span: (shown, clicks) for span, shown, clicks in found.spans}
                self._rows[user] = _Row(found.offset, found.arm, found.width, spans, found.since)
        return self._rows[user]
