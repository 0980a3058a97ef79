"""Benchmarks: both sides in one run, medians with spread, targets beside what was reached."""

BENCHES: dict[str, str] = {
    "experiment": "how often an experiment names a winner, by the true lift; simulated, seeded, without a broker",
    "ingest": "behaviours from Kafka to committed sequences, a second; Faust and Quix Streams beside it",
}
"""Name → what it measures, in a line. Each is a module of this package with a function `run` (`run.Bench`)."""
