"""Counts of outcomes per arm, window and user: a fold of one partition of `outcomes` that knows no Faust and no Kafka.

A window is what was shown in `[start, start + window_ms)` by the impression's `ts`, so an outcome that comes again
falls into the window that has counted it. A window remembers which (request, item) it has counted, and the offset that
it has read to: a record that Kafka hands over again is known by its offset, an outcome that a worker wrote again by its
ids. Counts, ids and offset are one value, so no crash can part them. The fold is the same whatever the batches.

What each user was shown and clicked is beside the windows, which say what of an outcome is new (`users`).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import numpy as np
from msgspec import Struct

from model.metrics import log_losses
from state.behavior import item_key
from stream.monitor.users import PartitionMoments, UserCounter, UserRow
from stream.schema.dedup import request_hash, sample_ids
from stream.schema.events import Outcome
from stream.settings import Settings

BIN_EDGES = (0.0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Of the calibration curve's bins by predicted probability: narrow where click rates are."""
BINS = len(BIN_EDGES) - 1
MAX_IDS = 100_000
"""Ids that one window of one partition remembers; the value of it then takes 800,000 bytes."""


class WindowPlan(Struct, frozen=True, kw_only=True):
    """Lengths of time, all in milliseconds of event time.

    Attributes:
        window_ms: length of a window.
        close_ms: after a window's end, when all of its outcomes should have come.
        remember_ms: after a window's end, when it forgets its ids and takes no more outcomes; at least `close_ms`.
        keep_ms: after a window's end, when its counts are removed; at least `remember_ms`.
    """

    window_ms: int
    close_ms: int
    remember_ms: int
    keep_ms: int

    @classmethod
    def of(cls, settings: Settings) -> "WindowPlan":
        """Return the lengths that the settings ask for; ids are kept at least until all outcomes should have come."""
        close_s = settings.worker.attribution_window_s + settings.worker.allowed_lateness_s
        remember_s = max(close_s, settings.monitor.dedup_s)
        retention_s = max(remember_s, settings.monitor.retention_s)
        return cls(
            window_ms=round(1000 * settings.monitor.window_s),
            close_ms=round(1000 * close_s),
            remember_ms=round(1000 * remember_s),
            keep_ms=round(1000 * retention_s),
        )

    def start(self, ts: int) -> int:
        """Return the start of the window that holds a time."""
        return ts - ts % self.window_ms


class ArmCounts(Struct, array_like=True):
    """Counts of an arm; they add up.

    `shown`, `clicks` and `predicted` (sum of probabilities) have `BINS` entries by predicted probability. `requests`
    counts impressions, `loss` is the sum of log losses (nats). `epoch` and `version` are the newest model state.
    """

    requests: int
    loss: float
    shown: list[int]
    clicks: list[int]
    predicted: list[float]
    epoch: int = 0
    version: int = 0

    @classmethod
    def zero(cls) -> Self:
        """Return empty counts."""
        return cls(0, 0.0, [0] * BINS, [0] * BINS, [0.0] * BINS)

    def add(self, outcome: Outcome, new: Sequence[int], *, request: bool) -> None:
        """Count some items of an outcome, by index; `request`: and its request."""
        self.requests += request
        for index in new:
            probability, label = outcome.probabilities[index], outcome.labels[index]
            place = bisect_right(BIN_EDGES, probability, 1, BINS) - 1
            self.shown[place] += 1
            self.clicks[place] += label
            self.predicted[place] += probability
        labels, probabilities = np.array(outcome.labels, dtype=np.float64), np.array(outcome.probabilities)
        self.loss += float(log_losses(labels[new], probabilities[new]).sum())
        self.epoch, self.version = max((self.epoch, self.version), (outcome.epoch, outcome.version))

    def __add__(self, other: "ArmCounts") -> "ArmCounts":
        epoch, version = max((self.epoch, self.version), (other.epoch, other.version))
        return ArmCounts(
            self.requests + other.requests,
            self.loss + other.loss,
            [a + b for a, b in zip(self.shown, other.shown, strict=True)],
            [a + b for a, b in zip(self.clicks, other.clicks, strict=True)],
            [a + b for a, b in zip(self.predicted, other.predicted, strict=True)],
            epoch,
            version,
        )


class WindowCounts(Struct, array_like=True):
    """One window of one partition.

    Attributes:
        start: ms since the epoch.
        offset: the last offset of the partition that it has counted.
        newest: the newest `ts` in it, ms.
        arms: arm → counts.
        repeated: items that had been counted before, and were not again.
        late: outcomes that came when all should have come; they are counted.
        unremembered: items beyond `MAX_IDS`: a repeat of them would count twice.
        ids: uint64 ids of what is counted, packed; empty when it no longer takes outcomes.
        begun: as of the partition's progress when it was counted; a window of another `begun` is none.
    """

    start: int
    offset: int = -1
    newest: int = 0
    arms: dict[str, ArmCounts] = {}
    repeated: int = 0
    late: int = 0
    unremembered: int = 0
    ids: bytes = b""
    begun: int = 0


class PartitionProgress(Struct, array_like=True):
    """How far a partition is counted; it must be written after the partition's windows.

    Attributes:
        event_time: the newest `ts`, ms.
        offset: the last offset that was looked at.
        too_late: outcomes for windows that had forgotten their ids; they are not counted.
        unreadable: records that could not be decoded.
        windows: starts of the windows that are kept, ascending.
        begun: when counting began (seconds since the epoch), or started over because the topic was recreated; it grows.
            Windows, users and moments of another `begun` are none. 0 in counts from before it was kept.
        origin: what `offset` is an offset of, as text (`stream.schema.position`); its time is that before `anchor`.
        anchor: an offset that was reached when counting began: on a broker without topic ids, a later one could be
            beyond records of a topic that was recreated under a running monitor, and would be found to fit it.
    """

    event_time: int = 0
    offset: int = -1
    too_late: int = 0
    unreadable: int = 0
    windows: list[int] = []
    begun: int = 0
    origin: str = ""
    anchor: int = 0


class BatchChanges(Struct):
    """What a batch changed, in the order in which it is to be written; `removed` are starts of windows.

    The order keeps the sums at least as far as the users, and these as far as the windows, wherever a crash cuts it.
    """

    sums: PartitionMoments
    users: dict[str, UserRow]
    written: list[WindowCounts]
    removed: list[int]
    progress: PartitionProgress
    read_again: int = 0


def fold(
    plan: WindowPlan,
    progress: PartitionProgress,
    load: Callable[[int], WindowCounts | None],
    users: UserCounter,
    records: Iterable[tuple[int, Outcome | None]],
) -> BatchChanges:
    """Count a batch of one partition.

    Args:
        plan: lengths of time.
        progress: the partition's; it is changed.
        load: start → the window, where there is one; what it returns is changed.
        users: what the partition's users did; it is changed.
        records: (offset, outcome) in the partition's order; None for what could not be read. They must go at least to
            the offset that the sums have reached: else a window would be written again that is ahead of users who are
            not, and both could be lost on the way to their changelog, but the window come through alone.

    Returns:
        What must be written. A window and a user are written again where a record was read again, since what was
        written of it before may have been lost on the way to its changelog.
    """
    open_windows: dict[int, _OpenWindow] = {}
    before = progress.event_time
    read_again = 0

    def opened(start: int) -> _OpenWindow | None:
        if start not in open_windows and (window := load(start)) is not None and window.begun == progress.begun:
            open_windows[start] = _OpenWindow(window)
        return open_windows.get(start)

    for offset, outcome in records:
        unseen = offset > progress.offset
        progress.offset = max(progress.offset, offset)
        if outcome is None:
            progress.unreadable += unseen
            continue
        start = plan.start(outcome.ts)
        end = start + plan.window_ms
        window = opened(start)
        if window is not None and offset <= window.window.offset:
            new = []
            read_again += 1
        elif end + plan.remember_ms <= progress.event_time:
            progress.too_late += unseen
            users.add(offset, outcome, [])
            continue
        else:
            if window is None:
                window = open_windows[start] = _OpenWindow(WindowCounts(start, arms={}, begun=progress.begun))
            new = window.count(offset, outcome, late=end + plan.close_ms <= progress.event_time)
        users.add(offset, outcome, new)
        progress.event_time = max(progress.event_time, outcome.ts)
        if start not in progress.windows:
            progress.windows = sorted([*progress.windows, start])
    for start in progress.windows:
        # Windows that this batch's event time has passed forget their ids.
        if before < start + plan.window_ms + plan.remember_ms <= progress.event_time and (window := opened(start)):
            window.forget()
    removed = [start for start in progress.windows if start + plan.window_ms + plan.keep_ms <= progress.event_time]
    progress.windows = progress.windows[len(removed) :]
    written = [window.closed() for start, window in sorted(open_windows.items()) if start not in removed]
    return BatchChanges(*users.closed(progress.offset), written, removed, progress, read_again)


class _OpenWindow:
    """A window while a batch is counted, with its ids as a set."""

    def __init__(self, window: WindowCounts) -> None:
        self.window = window
        self._ids = dict.fromkeys(np.frombuffer(window.ids, "<u8").tolist())

    def count(self, offset: int, outcome: Outcome, *, late: bool) -> list[int]:
        """Count what is new of an outcome, and return it: indices of items."""
        window = self.window
        items = np.array([item_key(item) for item in outcome.items], dtype=np.uint64)
        ids = sample_ids(outcome.request, items).tolist()
        new = [index for index, known in enumerate(ids) if known not in self._ids]
        request = request_hash(outcome.request)
        if new:
            counts = window.arms.setdefault(outcome.arm, ArmCounts.zero())
            counts.add(outcome, new, request=request not in self._ids)
        if len(self._ids) + len(new) < MAX_IDS:
            self._ids.update(dict.fromkeys([request, *(ids[index] for index in new)]))
        else:
            window.unremembered += len(new)
        window.repeated += len(ids) - len(new)
        window.late += late and bool(new)
        window.offset = offset
        window.newest = max(window.newest, outcome.ts)
        return new

    def forget(self) -> None:
        self._ids.clear()

    def closed(self) -> WindowCounts:
        self.window.ids = np.fromiter(self._ids, dtype="<u8", count=len(self._ids)).tobytes()
        return self.window
