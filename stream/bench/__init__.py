"""Benchmarks: both sides in one run, medians with spread, targets beside what was reached."""

BENCHES: dict[str, str] = {
    "scoring": "the passes of SAM over a sequence: the literal form against the served one",
}
"""Name → what it measures, in a line. Each is a module of this package with a function `run` (`run.Bench`)."""
