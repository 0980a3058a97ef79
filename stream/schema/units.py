"""Units of time, told by their size: `ts` is milliseconds since 1970, and seconds are easily written instead."""

_NOW = {"seconds": 1e9, "milliseconds": 1e12, "microseconds": 1e15, "nanoseconds": 1e18}
"""Unit → the 9th of September 2001 in it."""


def unit_of(ts: float) -> str:
    """Return the unit in which `ts` is a time between 1985 and 2286; empty where there is none.

    >>> unit_of(1_767_225_600), unit_of(1_767_225_600_000), unit_of(1_767_225_600_000_000), unit_of(5)
    ('seconds', 'milliseconds', 'microseconds', '')
    """
    return next((unit for unit, size in _NOW.items() if size / 2 <= ts < 10 * size), "")


def unit_hint(ts: float) -> str:
    """Return what to add to a message about a `ts` that seems to be of another unit; empty where it does not.

    >>> unit_hint(1_767_225_600)
    ': it looks like seconds; write milliseconds since 1970'
    """
    unit = unit_of(ts)
    return f": it looks like {unit}; write milliseconds since 1970" if unit not in ("", "milliseconds") else ""
