"""Warns where most records of a topic have a `ts` that looks like seconds, microseconds or nanoseconds.

One by one, a behaviour of January 1970 is taken as it is; that most of them are from there is worth a line.
"""

import logging
from collections import Counter
from collections.abc import Iterable

from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.task.decode import UnitCensus

_logger = logging.getLogger("samstream.worker")

_LEAST = 10
"""Records of a topic from which on there is something to say of most of them."""
_RECENT = 1000
"""After so many records that are as they should be, counting starts over."""


class UnitWarnings:
    """Looks at the records since the last warning; one line a topic every half minute while it lasts."""

    def __init__(self) -> None:
        self._records: Counter[str] = Counter()
        self._others: Counter[tuple[str, str]] = Counter()
        self._log_limit = LogLimit()

    def consider(self, censuses: Iterable[UnitCensus], now: float) -> None:
        """Warn if there is reason to.

        Args:
            censuses: of all partitions at hand.
            now: monotonic clock, seconds.
        """
        records, others = Counter[str](), Counter[tuple[str, str]]()
        for census in censuses:
            records.update(census.records)
            others.update(census.others)
        for topic, total in records.items():
            fresh = total - self._records[topic]
            new = {unit: count - self._others[topic, unit] for (of, unit), count in others.items() if of == topic}
            unit, count = max(new.items(), key=lambda each: each[1], default=("", 0))
            most = fresh >= _LEAST and 2 * count > fresh
            if most and self._log_limit.admit(topic, now=now) is None:
                continue
            if most:
                log(
                    _logger,
                    "ts_unit",
                    logging.WARNING,
                    topic=topic,
                    unit=unit,
                    records=count,
                    of=fresh,
                    remedy="ts must be milliseconds since 1970",
                )
            # Fewer than before: partitions have gone to another worker.
            if most or fresh > _RECENT or fresh < 0 or min(new.values(), default=0) < 0:
                self._records[topic] = total
                for each in new:
                    self._others[topic, each] = others[topic, each]
