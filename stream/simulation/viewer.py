"""Shows snapshots as they come: a live view in a terminal, a line every few seconds elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from stream.runtime import signals
from stream.simulation.terminal_view import Snapshot, plain_line, render

_LINE_S = 5.0


class Viewer:
    """The place where snapshots are shown.

    Args:
        console: where to.
        plain: lines even in a terminal.
    """

    def __init__(self, console: Console, *, plain: bool) -> None:
        self._console = console
        self._live = None if plain or not console.is_terminal else Live(console=console, refresh_per_second=4)
        self._next_line = 0.0
        self._phase = ""

    def __enter__(self) -> Self:
        """Begin."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last view standing."""
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot; as a line only now and then, and whenever the phase changes.

        Raises:
            KeyboardInterrupt: when there was a Ctrl-C that did not come through.
        """
        signals.raise_if_interrupted()
        if self._live is not None:
            self._live.update(render(snapshot))
        elif time.monotonic() >= self._next_line or snapshot.phase != self._phase:
            self._next_line, self._phase = time.monotonic() + _LINE_S, snapshot.phase
            self._console.print(plain_line(snapshot), soft_wrap=True, highlight=False)
