"""Progress of something long: a log line at its start and every few seconds, or a bar in a terminal."""

import logging
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from stream.runtime.logs import log

_TELL_S = 5.0


class Progress:
    """Reports how much of a known total is done; where standard error is a terminal, a bar replaces the later lines.

    Args:
        logger: gets the lines.
        event: the name of the log lines, such as `restoring`.
        unit: what is counted, such as `bytes`.
        total: how many there are.
        clock: monotonic, seconds.
        fields: further fields of every line.
    """

    def __init__(
        self,
        logger: logging.Logger,
        event: str,
        unit: str,
        total: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        **fields: object,
    ) -> None:
        self._logger, self._event, self._unit, self._fields = logger, event, unit, fields
        self._clock = clock
        self._began = clock()
        self.total = total
        self.done = 0
        self._bar = _bar() if sys.stderr.isatty() else None
        self._tell()
        if self._bar is not None:
            self._bar.add_task(self._description, total=total)
            self._bar.start()

    @property
    def _description(self) -> str:
        return " ".join([self._event, *(f"{key} {value}" for key, value in self._fields.items())])

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    @property
    def ratio(self) -> float:
        """The share that is done, 0 to 1."""
        return self.done / self.total if self.total else 1.0

    def extend(self, more: int, **fields: object) -> None:
        """Take note that there is more to do.

        Args:
            more: how much.
            fields: further fields of every line from now on, in place of those of the same name.
        """
        self.total += more
        self._fields |= fields
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=self.total, description=self._description)
        self._tell()

    def reach(self, done: int) -> None:
        """Report that so many are done."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif self._clock() >= self._next:
            self._tell()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _tell(self) -> None:
        self._next = self._clock() + _TELL_S
        told = {**self._fields, self._unit: self.done, "of": self.total, "seconds": self.seconds}
        log(self._logger, self._event, **told)


def _bar() -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    return Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
