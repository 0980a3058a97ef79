"""Changes and shares as text: what verdicts and reports write in the same way."""

import math

from stream.experiment.statistics.intervals import Interval


def signed_percent(value: float, digits: int = 0) -> str:
    """Return a relative change as a signed percentage; a dash where it is unknown.

    >>> signed_percent(0.254), signed_percent(-0.1), signed_percent(math.nan)
    ('+25%', '−10%', '–')
    """
    return "–" if math.isnan(value) else f"{100 * value:+.{digits}f}%".replace("-", "−").replace("inf", "∞")


def lift_words(lift: Interval) -> str:
    """Return a lift with its any-time interval.

    >>> lift_words(Interval(0.25, 0.18, 0.32))
    '+25% (any time: +18% to +32%)'
    """
    return f"{signed_percent(lift.value)} (any time: {signed_percent(lift.low)} to {signed_percent(lift.high)})"
