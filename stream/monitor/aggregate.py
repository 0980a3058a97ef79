"""The whole picture, put together from the fragments of all partitions; the same in every monitor. Knows no Kafka."""

from collections import Counter, deque
from collections.abc import Iterator

from msgspec.structs import replace

from stream.experiment.span_moments import SpanMoments
from stream.monitor.counting import Counts, Head, Plan, Window
from stream.monitor.records import AnswersFragment, ArmWindow, Fragment, HeadFragment, SumsFragment, WindowFragment
from stream.schema.update_headers import UpdateHeaders

_FRESH = 2000
"""Clicks of which freshness is known; the oldest go."""


class Board:
    """What all partitions have counted, by window; what was published of it, and what is to be.

    Args:
        plan: lengths of time; fragments of windows of another length are not its own.
        experiment: nor are sums of another one (`users.experiment_id`).

    Attributes:
        heads: partition → its head, without the list of windows.
        answers: start of window (ms) → (run, partition) → the fragment.
        freshness: of the newest clicks, (Kafka time of the update that knows it first, ms since its click).
        learned: arm → (epoch, version, Kafka time in ms) of its newest update.
        revised: how many records it has asked to publish again.
        changes: how many fragments brought something new.
    """

    def __init__(self, plan: Plan, experiment: int = 0) -> None:
        self._plan = plan
        self._experiment = experiment
        self._sums: dict[int, tuple[int, SpanMoments]] = {}
        self._windows: dict[int, dict[int, Window]] = {}
        self._published: dict[tuple[str, int], ArmWindow] = {}
        self._dirty: set[int] = set()
        self._event_time = 0
        self._quiet = False
        self.heads: dict[int, Head] = {}
        self.answers: dict[int, dict[tuple[str, int], AnswersFragment]] = {}
        self.freshness: deque[tuple[int, int]] = deque(maxlen=_FRESH)
        self.learned: dict[str, tuple[int, int, int]] = {}
        self.revised = 0
        self.changes = 0

    @property
    def event_time(self) -> int:
        """The newest `ts` of all partitions, ms."""
        return self._event_time

    def take(self, fragment: Fragment) -> None:
        """Take a fragment; an older one than what is there changes nothing."""
        match fragment:
            case WindowFragment(window_ms, partition, window):
                if window_ms == self._plan.window_ms:
                    self._take_window(partition, window)
            case HeadFragment(partition, head):
                if partition not in self.heads or self.heads[partition].offset <= head.offset:
                    self.heads[partition] = head
            case SumsFragment(partition, sums):
                # Unpacked here, where what does not fit together is refused.
                if sums.experiment == self._experiment and sums.offset >= self._sums.get(partition, (-1,))[0]:
                    self._sums[partition] = sums.offset, SpanMoments.unpack(sums.spans)
            case AnswersFragment(run, partition, start, _):
                self.answers.setdefault(start, {})[run, partition] = fragment
                self._prune(self.answers, max(self.answers))

    def announced(self, update: UpdateHeaders, time_ms: int) -> None:
        """Take note that the trainer has published an update at a (Kafka) time."""
        self.freshness.extend((time_ms, max(0, time_ms - click)) for click in update.clicks)
        state = update.epoch, update.version, time_ms
        self.learned[update.arm] = max(state, self.learned.get(update.arm, state))

    def published(self, record: ArmWindow) -> None:
        """Take note of what `experiment-metrics` says."""
        where = record.arm, record.start
        if where not in self._published or record.revision > self._published[where].revision:
            self._published[where] = record
            self._dirty.add(record.start)

    def quiet(self, quiet: bool) -> None:
        """Say whether nothing has come for so long that all windows are over."""
        if quiet and not self._quiet:
            self._dirty.update(self._windows)
        self._quiet = quiet

    def due(self) -> Iterator[ArmWindow]:
        """Yield what is to be published now: closed windows that say what was not published yet."""
        for start in sorted(self._dirty):
            if start not in self._windows:
                self._dirty.discard(start)
            elif self.is_closed(start):
                self._dirty.discard(start)
                for arm, counts in self.totals(start).items():
                    before = self._published.get((arm, start))
                    revision = before.revision if before else 0
                    record = ArmWindow.of(arm, start, start + self._plan.window_ms, counts, revision=revision)
                    if record != before:
                        self.revised += before is not None
                        self._published[arm, start] = again = replace(record, revision=revision + 1)
                        yield again

    def is_closed(self, start: int) -> bool:
        """Say whether all outcomes of a window should have come."""
        return self.is_over(start + self._plan.window_ms)

    def is_over(self, end: int) -> bool:
        """Say whether all outcomes of what was shown before a time should have come."""
        return self._quiet or end + self._plan.close_ms <= self._event_time

    def sums(self) -> SpanMoments:
        """Return the moments of all users, of all partitions."""
        total = SpanMoments()
        for _, (_, moments) in sorted(self._sums.items()):
            total.merge(moments)
        return total

    def starts(self) -> list[int]:
        """Return the starts of all windows that are kept, ascending."""
        return sorted(self._windows)

    def totals(self, start: int) -> dict[str, Counts]:
        """Return arm → counts of a window over all partitions."""
        totals: dict[str, Counts] = {}
        for _, window in sorted(self._windows[start].items()):
            for arm, counts in window.arms.items():
                totals[arm] = totals[arm] + counts if arm in totals else counts
        return totals

    def counters(self) -> Counter[str]:
        """Return what was refused, came late, or could not be used."""
        counts: Counter[str] = Counter()
        for parts in self._windows.values():
            for window in parts.values():
                counts["repeated"] += window.repeated
                counts["late"] += window.late
                counts["unremembered"] += window.unremembered
        for head in self.heads.values():
            counts["too_late"] += head.too_late
            counts["unreadable"] += head.unreadable
        return counts

    def _take_window(self, partition: int, window: Window) -> None:
        parts = self._windows.setdefault(window.start, {})
        if partition in parts and parts[partition].offset > window.offset:
            return
        if partition not in parts or parts[partition].offset < window.offset:
            self.changes += 1
        parts[partition] = window
        self._dirty.add(window.start)
        if window.newest > self._event_time:
            # Windows that close by this must be looked at again.
            self._event_time = window.newest
            self._prune(self._windows, self._event_time)
            self._prune(self.answers, self._event_time)
            for arm, start in [where for where in self._published if where[1] not in self._windows]:
                if self._is_gone(start, self._event_time):
                    del self._published[arm, start]

    def _prune(
        self, by_start: dict[int, dict[int, Window]] | dict[int, dict[tuple[str, int], AnswersFragment]], now: int
    ) -> None:
        for start in [start for start in by_start if self._is_gone(start, now)]:
            del by_start[start]

    def _is_gone(self, start: int, now: int) -> bool:
        return start + self._plan.window_ms + self._plan.keep_ms <= now
