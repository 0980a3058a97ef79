"""Closing several resources, whatever happens to one of them: the first error is raised, a later one is a log line."""

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeVar

from stream.runtime.logs import log

_logger = logging.getLogger("samstream.closing")


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> object:
        """Close it."""


C = TypeVar("C", bound=Closable)
T = TypeVar("T")


def close_all(steps: Iterable[Callable[[], object]], *, after: BaseException | None = None) -> None:
    """Take all steps, whichever of them fail; then raise the first error.

    Args:
        steps: what is to be done, in order.
        after: an error that is being raised already: then those of the steps are logged, and none is raised.
    """
    first = None
    for step in steps:
        try:
            step()
        except BaseException as error:  # an interrupt, too, waits until all is closed
            if first is None and after is None:
                first = error
            else:
                log(_logger, "not_closed", logging.WARNING, what=_name(step), error=f"{error}" or repr(error))
    if first is not None:
        raise first


class Resources:
    """Resources of a `with` block: closed at its end, the last one first, as `close_all` does.

    What the block raises stays what is raised.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, resource: C) -> C:
        """Close a resource at the end; returns it."""
        self._steps.append(resource.close)
        return resource

    def defer(self, step: Callable[[], object]) -> None:
        """Take a step at the end."""
        self._steps.append(step)

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Enter a context, and leave it at the end; returns what it gives."""
        value = context.__enter__()
        self._steps.append(partial(context.__exit__, None, None, None))
        return value

    def keep(self) -> None:
        """Close nothing at the end: what was opened has found another owner."""
        self._steps.clear()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all."""
        steps, self._steps = self._steps[::-1], []
        close_all(steps, after=error)


def _name(step: Callable[[], object]) -> str:
    owner = getattr(step.func if isinstance(step, partial) else step, "__self__", None)
    return type(owner).__name__ if owner is not None else getattr(step, "__qualname__", repr(step))
