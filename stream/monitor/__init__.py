"""The monitor: counts of `outcomes` per arm and window in Faust tables, `experiment-metrics`, and a live page."""
