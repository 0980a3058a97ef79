"""Times as people write and read them."""

import re
from datetime import UTC, datetime

from stream.errors import TimeError

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_time(text: str, *, now: float) -> int:
    """Return a time in ms since the epoch.

    Args:
        text: a date or time in ISO 8601, UTC where it names no zone, or a length of time before now, such as `12h`.
        now: seconds since the epoch.

    Raises:
        TimeError: for anything else, and for a time that cannot be written in milliseconds since 1970.

    >>> parse_time("1970-01-02", now=0), parse_time("1970-01-01T01:00+01:00", now=0), parse_time("2m", now=180)
    (86400000, 0, 60000)
    """
    if ago := _AGO.fullmatch(text.strip()):
        seconds = now - float(ago[1]) * _SECONDS[ago[2]]
    else:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            raise TimeError(
                f"{text!r} is not a time: write it as 2026-03-01, 2026-03-01T18:00 (UTC), 2026-03-01T18:00+01:00, or as"
                " 90m, 12h or 7d for so long ago"
            ) from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds < 2**48 / 1000:
        raise TimeError(f"{text!r} is before 1970")
    return round(1000 * seconds)


def time_words(ms: float) -> str:
    """Return a time (ms since the epoch) for a person, UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
