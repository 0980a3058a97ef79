"""Numbers, times and arms as text: what every part of a report writes in the same way."""

import math

from stream.settings import ArmSettings


def model_words(arm: ArmSettings) -> str:
    """Return an arm's model: its preset, and what it changes of it other than the length."""
    changed = ", ".join(f"{key} {value}" for key, value in arm.model.items() if key != "length")
    return f"{arm.preset} with {changed}" if changed else arm.preset


def learning_words(arm: ArmSettings) -> str:
    """Return whom an arm learns from; "no" for an arm that does not learn."""
    return {"own": "from its own users", "all": "from all users"}[arm.learn_from] if arm.learn else "no"


def span_words(seconds: float) -> str:
    """Return a length of time in the largest unit of which there are at least two."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}".replace(".0 ", " ")
    return f"{seconds:.0f} seconds"


def p_value_words(p: float) -> str:
    """Return a p-value with two significant digits; very small ones as `p < 0.0001`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}%"


def number(value: float, digits: int = 0) -> str:
    """Return a number with thousands separated; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
