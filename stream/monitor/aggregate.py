"""The counts of all partitions put together from their partials; the same in every monitor. Knows no Kafka."""

from collections import Counter, deque
from collections.abc import Iterator

from msgspec.structs import replace

from stream.experiment.span_moments import SpanMoments
from stream.monitor.counting import ArmCounts, PartitionProgress, WindowCounts, WindowPlan
from stream.monitor.records import AnswersPartial, ArmWindow, MomentsPartial, Partial, ProgressPartial, WindowPartial
from stream.schema.update_headers import UpdateHeaders

_FRESH = 2000
"""Clicks whose freshness is kept; the oldest are dropped."""


class Aggregate:
    """Counts of all partitions by window, what of them was published, and what is due.

    Args:
        plan: lengths of windows; partials of windows of another length are ignored.
        experiment: moments of another one (`users.experiment_id`) are ignored.

    Attributes:
        progress: by partition, without the list of windows.
        answers: start of window (ms) → (run, partition) → the partial.
        freshness: of the newest clicks, (Kafka time of the first update that learned from it, ms since the click).
        learned: arm → (epoch, version, Kafka time in ms) of its newest update.
        revised: how many records were published again.
        changes: how many partials brought something new.
    """

    def __init__(self, plan: WindowPlan, experiment: int = 0) -> None:
        self._plan = plan
        self._experiment = experiment
        self._sums: dict[int, tuple[int, SpanMoments]] = {}
        self._windows: dict[int, dict[int, WindowCounts]] = {}
        self._published: dict[tuple[str, int], ArmWindow] = {}
        self._dirty: set[int] = set()
        self._begun: dict[int, int] = {}
        self._event_time = 0
        self._idle = False
        self.progress: dict[int, PartitionProgress] = {}
        self.answers: dict[int, dict[tuple[str, int], AnswersPartial]] = {}
        self.freshness: deque[tuple[int, int]] = deque(maxlen=_FRESH)
        self.learned: dict[str, tuple[int, int, int]] = {}
        self.revised = 0
        self.changes = 0

    @property
    def event_time(self) -> int:
        """The newest `ts` of all partitions, ms."""
        return self._event_time

    def add(self, partial: Partial) -> None:
        """Add a partial; one that is older than what is known changes nothing.

        One that has begun later is of a partition that was recreated: nothing that was counted of it before holds.
        """
        match partial:
            case WindowPartial(window_ms, partition, window):
                if window_ms == self._plan.window_ms and self._is_valid(partition, window.begun):
                    self._take_window(partition, window)
            case ProgressPartial(partition, progress):
                if self._is_valid(partition, progress.begun) and (
                    partition not in self.progress or self.progress[partition].offset <= progress.offset
                ):
                    self.progress[partition] = progress
            case MomentsPartial(partition, sums):
                # Unpacked here, where damaged moments are refused.
                if (
                    sums.experiment == self._experiment
                    and self._is_valid(partition, sums.begun)
                    and sums.offset >= self._sums.get(partition, (-1,))[0]
                ):
                    self._sums[partition] = sums.offset, SpanMoments.unpack(sums.spans)
            case AnswersPartial(run, partition, start, _):
                self.answers.setdefault(start, {})[run, partition] = partial
                self._prune(self.answers, max(self.answers))

    def add_update(self, update: UpdateHeaders, time_ms: int) -> None:
        """Add an update that the trainer published at a (Kafka) time."""
        self.freshness.extend((time_ms, max(0, time_ms - click)) for click in update.clicks)
        state = update.epoch, update.version, time_ms
        self.learned[update.arm] = max(state, self.learned.get(update.arm, state))

    def add_published(self, record: ArmWindow) -> None:
        """Add a record read from `experiment-metrics`."""
        where = record.arm, record.start
        if where not in self._published or record.revision > self._published[where].revision:
            self._published[where] = record
            self._dirty.add(record.start)

    def begun(self, partition: int) -> int:
        """Return when the counts of a partition began, or started over; seconds since the epoch, 0 when not known."""
        return self._begun.get(partition, 0)

    def set_idle(self, idle: bool) -> None:
        """Set whether nothing has come for so long that all windows count as closed."""
        if idle and not self._idle:
            self._dirty.update(self._windows)
        self._idle = idle

    def due_records(self) -> Iterator[ArmWindow]:
        """Yield the records to publish: those of closed windows that are new or have changed."""
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
        """Say whether all outcomes of impressions before a time should have come."""
        return self._idle or end + self._plan.close_ms <= self._event_time

    def sums(self) -> SpanMoments:
        """Return the moments of all users, of all partitions."""
        total = SpanMoments()
        for _, (_, moments) in sorted(self._sums.items()):
            total.merge(moments)
        return total

    def starts(self) -> list[int]:
        """Return the starts of all windows that are kept, ascending."""
        return sorted(self._windows)

    def totals(self, start: int) -> dict[str, ArmCounts]:
        """Return arm → counts of a window over all partitions."""
        totals: dict[str, ArmCounts] = {}
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
        for progress in self.progress.values():
            counts["too_late"] += progress.too_late
            counts["unreadable"] += progress.unreadable
        return counts

    def _is_valid(self, partition: int, begun: int) -> bool:
        """Say whether a partition's counts that began then hold; drops those that began earlier."""
        known = self._begun.setdefault(partition, begun)
        if begun > known:
            self._begun[partition] = begun
            self.progress.pop(partition, None)
            self._sums.pop(partition, None)
            for start in [start for start, parts in self._windows.items() if parts.pop(partition, None)]:
                self._dirty.add(start)
                if not self._windows[start]:
                    del self._windows[start]
            self._event_time = max(
                (window.newest for parts in self._windows.values() for window in parts.values()), default=0
            )
            self.changes += 1
        return begun >= known

    def _take_window(self, partition: int, window: WindowCounts) -> None:
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
        self, by_start: dict[int, dict[int, WindowCounts]] | dict[int, dict[tuple[str, int], AnswersPartial]], now: int
    ) -> None:
        for start in [start for start in by_start if self._is_gone(start, now)]:
            del by_start[start]

    def _is_gone(self, start: int, now: int) -> bool:
        return start + self._plan.window_ms + self._plan.keep_ms <= now
