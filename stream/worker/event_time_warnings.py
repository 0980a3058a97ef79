"""Warns where event time stands while records come: windows do not close, and what was not clicked is never learned.

A clock that is years behind is refused record by record; one that is hours behind and does not run looks right in each.
"""

import logging
from collections.abc import Mapping

from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.task.task import Clocks

_logger = logging.getLogger("samstream.worker")

_WINDOWS = 2
"""Attribution windows by which the records' timestamps must have advanced before there is something to say."""
_LEAST_SHARE = 0.1
"""The share of that by which event time moves at least where clocks run."""


class EventTimeWarnings:
    """Compares event time with the records' timestamps, partition by partition; one line every half minute at most.

    Args:
        window_s: an attribution window with its lateness.
    """

    def __init__(self, window_s: float) -> None:
        self._span_ms = _WINDOWS * 1000 * window_s
        self._begun: dict[int, Clocks] = {}
        self._log_limit = LogLimit()

    def consider(self, clocks: Mapping[int, Clocks], now: float) -> None:
        """Warn if there is reason to.

        Args:
            clocks: partition number → its clocks, of the partitions at hand where both are known.
            now: monotonic clock, seconds.
        """
        self._begun = {number: self._begun.get(number, known) for number, known in clocks.items()}
        standing = {}
        for number, known in clocks.items():
            begun = self._begun[number]
            advanced, moved = known.record_ms - begun.record_ms, known.event_ms - begun.event_ms
            if advanced > self._span_ms and moved < _LEAST_SHARE * advanced:
                standing[number] = known, advanced, moved
            if advanced > self._span_ms or advanced < 0:
                self._begun[number] = known
        if standing and self._log_limit.admit("standing", now=now) is not None:
            number, (known, advanced, moved) = next(iter(sorted(standing.items())))
            log(
                _logger,
                "event_time_stands",
                logging.WARNING,
                partition=number,
                partitions=len(standing),
                records_advanced_s=advanced / 1000,
                event_time_moved_s=moved / 1000,
                behind_s=(known.record_ms - known.event_ms) / 1000,
                remedy="ts must be of clocks that run: until event time moves on, no window closes",
            )
