"""Structured logs: one line an event, `time level process event key=value …`, on standard error."""

import logging
import sys
from typing import TextIO


def log(logger: logging.Logger, event: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Write one event with its fields."""
    if logger.isEnabledFor(level):
        words = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        logger.log(level, "%s %s", event, words)


def configure(level: str = "INFO") -> None:
    """Send the process's logs to standard error."""
    handler = _StandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to the present `sys.stderr`, which a progress bar replaces to print lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def printable(text: str) -> str:
    r"""Return text in one line, with control characters escaped: it may have been written by anybody.

    >>> printable("naïve\x1b[2J\n")
    'naïve\\x1b[2J\\n'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _quoted(value: object) -> str:
    text = printable(f"{value:.3f}" if isinstance(value, float) else str(value))
    return f'"{text}"' if any(character in text for character in ' "=') else text
