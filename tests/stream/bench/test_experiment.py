"""`bench experiment` measures error rates and power, and draws them."""

from dataclasses import replace
from typing import Any

from stream.bench.experiment import BASE, _picture, winner_rates


def test_it_measures_false_positives_and_power_and_draws_them() -> None:
    small = replace(BASE, worlds=20, users=300, looks=20)
    rows: list[dict[str, Any]] = [
        {"world": "users return", "lift": lift, **winner_rates(replace(small, lift=lift), seed=0)}
        for lift in (0.0, 0.3, 1.0)
    ]
    assert rows[0]["any time"] <= 0.05
    assert rows[0]["naive, peeking"] > 0.3
    assert rows[2]["any time"] == rows[2]["any time, CUPED"] == rows[2]["one look at the end"] == 1
    assert rows[1]["any time, CUPED"] >= rows[1]["any time"]
    assert _picture(rows).startswith(b"\x89PNG")
