"""Closes several resources even if one fails: the first error is raised, later ones are logged."""

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
    """Run all steps, even if some fail; then raise the first error.

    Args:
        steps: called in order.
        after: an error that is being raised already: then errors of the steps are only logged.
    """
    first = None
    for step in steps:
        try:
            step()
        except BaseException as error:  # an interrupt, too, waits until all is closed
            if first is None and after is None:
                first = error
            else:
                log(_logger, "close_failed", logging.WARNING, what=_name(step), error=f"{error}" or repr(error))
    if first is not None:
        raise first


class Resources:
    """Resources of a `with` block: closed at its end by `close_all`, the last one first.

    An error of the block is raised even if closing fails.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, resource: C) -> C:
        """Close a resource at the end; returns it."""
        self._steps.append(resource.close)
        return resource

    def defer(self, step: Callable[[], object]) -> None:
        """Call a step at the end."""
        self._steps.append(step)

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Enter a context, and leave it at the end; returns what it gives."""
        value = context.__enter__()
        self._steps.append(partial(context.__exit__, None, None, None))
        return value

    def keep(self) -> None:
        """Close nothing at the end: the resources have another owner now."""
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
