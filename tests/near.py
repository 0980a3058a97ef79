"""Values read from JSON, equal but for the last digits of numbers."""

import math
from typing import Any


def near(one: Any, other: Any) -> bool:
    """Say whether two values from JSON are equal; numbers may differ by 1e-9 of their size.

    Sums of the same whole numbers are exact, but what is computed of them depends on the shape of the arrays: numpy
    adds products in another order for vectors of two than of four.
    """
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-300) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(near, one, other))
    return bool(one == other)
