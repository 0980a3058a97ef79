"""Attribution windows of one partition number: opened by answers, closed by event time, turned into samples."""

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from state.feature_layout import FeatureLayout
from state.partition import Partition
from stream.schema.erasures import Voids
from stream.schema.events import Click, Impression, RequestKey, SequenceName
from stream.schema.features import NO_FEATURES
from stream.schema.record import Record, RefusedRecord
from stream.settings import WorkerSettings
from stream.task.answer import Answer
from stream.task.features import packed_features_of
from stream.task.joiner import Joiner, LabelledItems, PendingImpression
from stream.task.labels import Result, merge_labels, samples_and_outcomes


class AttributionWindows:
    """Collects the labels of answered impressions: clicks at once, the other shown items when their window closes.

    With early labels, those are learned from `label_wait_s` after their impression, and counted at the window's end.

    Event time is the newest `ts` of the partition. Where no record comes, `advance_idle_time` lets it run on at the
    speed of the wall clock.

    Args:
        partition: keeps the open requests.
        settings: windows and limits.
        layout: how features of callers lie in records.
    """

    def __init__(
        self,
        partition: Partition,
        settings: WorkerSettings,
        layout: FeatureLayout = NO_FEATURES.layout,
    ) -> None:
        self._layout = layout
        self._joiner = Joiner(
            partition.pending,
            window_ms=round(settings.attribution_window_s * 1000),
            lateness_ms=round(settings.allowed_lateness_s * 1000),
            learn_ms=round(settings.label_wait_s * 1000) if settings.labels == "early" else None,
        )
        self._idle_timeout_s = settings.idle_timeout_s
        self._active_at: float | None = None
        self.event_time = self._joiner.event_time
        """The newest `ts` of the partition, ms."""
        self._closed_to = -1
        self._labelled: list[LabelledItems] = []
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of open windows."""
        return len(self._joiner)

    @property
    def counts(self) -> Counter[str]:
        """What happened, by name."""
        return self._counts + Counter(
            duplicate_clicks=self._joiner.duplicate_clicks,
            duplicate_impressions=self._joiner.duplicate_impressions,
            conflicting_impressions=self._joiner.conflicting_impressions,
            withdrawn=self._joiner.withdrawn,
            withdrawn_late=self._joiner.withdrawn_late,
            withdrawn_unknown=self._joiner.withdrawn_unknown,
            clicks_withdrawn=self._joiner.clicks_withdrawn,
        )

    @property
    def unsaved(self) -> bool:
        """Whether `save` would write requests or clicks."""
        return self._joiner.unsaved

    def open(
        self,
        impression: Impression,
        categories: npt.NDArray[np.uint32],
        sequence: SequenceName,
        answer: Answer,
        *,
        withdrawn: bool = False,
    ) -> list[RefusedRecord]:
        """Open the window of an answered impression; returns clicks that waited for it and cannot be used.

        Args:
            impression: what was asked.
            categories: (C,) category keys of its candidates.
            sequence: names what it was scored with.
            answer: what was answered.
            withdrawn: whether it is known already that the answer is not shown.
        """
        ranks = np.empty(len(answer.order), dtype=np.intp)
        ranks[answer.order] = np.arange(len(answer.order))
        pending = PendingImpression(
            request_id=impression.request_id,
            user=impression.user,
            arm=answer.arm,
            ts=impression.ts,
            epoch=answer.epoch,
            version=answer.version,
            slots=impression.slots,
            items=[candidate.item for candidate in impression.candidates],
            categories=categories.tolist(),
            probabilities=answer.probabilities.tolist(),
            ranks=ranks.tolist(),
            clicked=bytearray(len(ranks)),
            sequence=sequence,
            teams=list(answer.teams),
            numbers=answer.numbers,
            withdrawn=withdrawn,
            propensity=answer.shares.get(answer.arm, 0.0),
        )
        if self._layout.text:
            pending.layout = self._layout.text
            pending.context, pending.attributes = packed_features_of(impression)
        return self._collect(self._joiner.impression(pending))

    def withdraw(self, request: RequestKey) -> None:
        """Give no labels to what a request was answered, and was not shown."""
        self._joiner.withdraw(request)

    def click(self, click: Click, record: Record) -> list[RefusedRecord]:
        """Take a click and the record that it came in; returns it when it cannot be used."""
        return self._collect(self._joiner.click(click, record))

    def erase(self, voids: Voids, users: Collection[str]) -> None:
        """Drop what is void of users: open requests, clicks that wait, and labels that were not taken."""
        self._joiner.erase(voids, users)
        self._labelled = [
            each
            for each in self._labelled
            if each.pending.user not in users or not voids.answer(each.pending.user, each.pending.sequence.read_to)
        ]

    def close_due(self) -> list[RefusedRecord]:
        """Close the windows that are over by event time; returns clicks that found no impression."""
        if self.event_time == self._closed_to:  # a window that opens at a time is not over by then
            return []
        self._closed_to = self.event_time
        return self._collect(self._joiner.advance(self.event_time))

    def note_step(self, now: float, *, worked: bool) -> None:
        """Tell of a step: idle time runs since the last one that processed a record, or else since the first."""
        if worked or self._active_at is None:
            self._active_at = now

    def is_idle(self, now: float) -> bool:
        """Say whether a window or a click waits for event time, and no record came for the idle timeout."""
        idle = self._active_at is not None and now - self._active_at > self._idle_timeout_s
        return idle and self._joiner.waiting

    def advance_idle_time(self, now: float) -> list[RefusedRecord]:
        """Close the windows that are over when idle time counts as event time; returns as `close_due` does."""
        idle_s = 0.0 if self._active_at is None else now - self._active_at
        return self._collect(self._joiner.advance(self.event_time + round(idle_s * 1000)))

    def take_results(self) -> list[Result]:
        """Return the samples and outcomes of all labels since the last call.

        Labels of one request that came up together travel as one sample, or one for each team that placed them.
        """
        if not self._labelled:
            return []
        labelled, self._labelled = merge_labels(self._labelled), []
        return [result for each in labelled for result in self._results(each)]

    def save(self) -> None:
        """Bring the partition's table of open requests up to date."""
        self._joiner.save()

    def _collect(self, results: Iterable[LabelledItems | RefusedRecord]) -> list[RefusedRecord]:
        refused = []
        for result in results:
            if isinstance(result, RefusedRecord):
                refused.append(result)
            else:
                self._labelled.append(result)
        return refused

    def _results(self, labelled: LabelledItems) -> Iterable[Result]:
        if labelled.use != "count":
            self._counts["samples"] += len(labelled.indices)
        return samples_and_outcomes(labelled, self._layout)
