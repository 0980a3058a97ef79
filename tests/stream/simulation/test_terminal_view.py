"""The live view shows every number, at any moment, in a narrow terminal."""

import io
import math

import pytest
from rich.console import Console

from stream.simulation.terminal_view import ArmSnapshot, Snapshot, plain_line, render, sparkline

ARM = ArmSnapshot("sam-1000", 2, 121, 12_190, 1832, 0.155, 0.147, 0.162, [0.5, 0.45, 0.4, 0.412])
SNAPSHOT = Snapshot(
    phase="traffic",
    elapsed=61,
    total=110,
    events=1243.4,
    scores=40.2,
    clicks=5.1,
    samples=402,
    latency_p50=21.4,
    latency_p99=59.3,
    freshness_p50=1.24,
    freshness_p99=2.6,
    lag=1234,
    dead_letters=3,
    arms=[ARM, ArmSnapshot("din-50", 2, 119, 900, 40, 0.04, math.nan, math.nan)],
    verdict="sam-1000 wins: clicks against din-50 +34% (any time: +15% to +56%)",
)


def shown(snapshot: Snapshot, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(snapshot))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_everything_is_on_the_screen(width: int) -> None:
    text = shown(SNAPSHOT, width)
    wanted = ["traffic", "61 of 110 s", "1,243", "40", "402", "21 ms", "59 ms", "1.2 s", "2.6 s", "1,234"]
    wanted += [
        "sam-1000",
        "2.121",
        "12,190",
        "15.5% [14.7, 16.2]",
        "0.412",
        "din-50",
        "4.0%",
        "sam-1000 wins: clicks against din-50",
    ]
    assert [word for word in wanted if word not in text] == []
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_what_is_not_known_yet_is_a_dash() -> None:
    text = shown(
        Snapshot(phase="warming up", elapsed=3, arms=[ArmSnapshot("sam", 0, 0, 0, 0, math.nan, math.nan, math.nan)])
    )
    assert "nan" not in text
    assert "warming up" in text
    assert "3 s" in text
    assert "–" in text


def test_dead_letters_stand_out() -> None:
    def styles(dead_letters: int) -> str:
        console = Console(width=100, force_terminal=True, color_system="standard")
        with console.capture() as capture:
            console.print(render(Snapshot(phase="traffic", elapsed=1, dead_letters=dead_letters)))
        return capture.get()

    red = "\x1b[1;31m"
    assert red in styles(1)
    assert red not in styles(0)


def test_plain_is_one_line_with_everything_in_it() -> None:
    line = plain_line(SNAPSHOT)
    assert "\n" not in line
    for part in ["61s traffic", "events/s 1,243", "latency 21/59 ms", "freshness 1.2/2.6 s", "dead 3", "lag 1234"]:
        assert part in line
    assert "sam-1000 v2.121 CTR 15.5% [14.7, 16.2]" in line
    assert line.endswith("| sam-1000 wins: clicks against din-50 +34% (any time: +15% to +56%)")
    assert "nan" not in plain_line(Snapshot(phase="warming up", elapsed=0))


def test_sparkline_spans_from_least_to_greatest() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5]) == "▄▄"
    assert sparkline([1, math.nan, 2]) == "▁ █"
    assert sparkline([math.nan]) == ""
    assert sparkline(range(100), width=3) == "▁▅█"


def test_any_number_of_arms_fits() -> None:
    many = [ArmSnapshot(f"arm-{place}", 1, 1, 1, 0, 0.0, 0.0, 0.9) for place in range(9)]
    text = shown(Snapshot(phase="traffic", elapsed=1, arms=many))
    assert all(arm.name in text for arm in many)
