"""Finds where in a value something stands, as paths like msgspec's: `$.candidates[3].item`."""

from collections.abc import Callable
from typing import Any


def path_of(value: Any, wrong: Callable[[Any], bool], path: str = "$") -> str:
    """Return the path of the first part of a value that is wrong; empty when there is none.

    >>> path_of({"user": "ann", "items": [1, None]}, lambda part: part is None)
    '$.items[1]'
    """
    if wrong(value):
        return path
    entries: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        entries = [(f"{path}.{name}", each) for name, each in value.items()]
    elif isinstance(value, list):
        entries = [(f"{path}[{place}]", each) for place, each in enumerate(value)]
    return next((found for where, each in entries if (found := path_of(each, wrong, where))), "")
