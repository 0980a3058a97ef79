"""Whether something that is measured over time grows."""

import numpy as np
import numpy.typing as npt
from scipy.stats import theilslopes

HOUR_S = 3600.0


def slope_an_hour(seconds: npt.ArrayLike, values: npt.ArrayLike) -> float | None:
    """Return by how much (n,) values grow in an hour: the median of the slopes of all pairs (Theil and Sen).

    Up to 29% of the values may be anything. What is NaN is left out; None when fewer than three are left.

    >>> slope_an_hour([0, 900, 1800, 2700], [1.0, 2.0, 99.0, 4.0])
    4.0
    """
    times, measured = np.asarray(seconds, np.float64), np.asarray(values, np.float64)
    there = np.isfinite(measured)
    if np.count_nonzero(there) < 3:
        return None
    return float(theilslopes(measured[there], times[there]).slope * HOUR_S)
