"""Guesses the unit of a `ts` from its size: it must be milliseconds since 1970, and is easily written in seconds."""

DAY_MS = 86_400_000
HOUR_MS = 3_600_000

EARLIEST, LATEST = 5 * 10**11, 10**13
"""A time from EARLIEST on and before LATEST seems to be in milliseconds: 1985 to 2286."""
_OTHERS = {"seconds": 1e9, "microseconds": 1e15, "nanoseconds": 1e18}
"""Another unit → the 9th of September 2001 in it."""


def unit_of(ts: float) -> str:
    """Return the unit other than milliseconds in which `ts` is a time between 1985 and 2286; empty where there is none.

    >>> unit_of(1_767_225_600), unit_of(1_767_225_600_000), unit_of(1_767_225_600_000_000), unit_of(5)
    ('seconds', '', 'microseconds', '')
    """
    return next((unit for unit, size in _OTHERS.items() if size / 2 <= ts < 10 * size), "")


def unit_hint(ts: float) -> str:
    """Return what to add to a message about a `ts` that seems to be of another unit; empty where it does not.

    >>> unit_hint(1_767_225_600)
    ': it looks like seconds; write milliseconds since 1970'
    """
    unit = unit_of(ts)
    return f": it looks like {unit}; write milliseconds since 1970" if unit else ""
