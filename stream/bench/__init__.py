"""Benchmarks: both sides in one run, medians with spread, targets beside what was reached."""

BENCHES: dict[str, str] = {
    "experiment": "how often an experiment names a winner, by the true lift; simulated, seeded, without a broker",
    "interleaving": "impressions that interleaving and A/B need to tell two rankings apart; simulated, seeded",
    "ingest": "behaviours from Kafka to committed sequences, a second; Faust and Quix Streams beside it",
    "latency": "from an impression due to its score received, at rising request rates",
    "freshness": "from a click produced to the first score of a model that has learned from it",
    "sync": "bytes and time of a model update, and the pause of a worker that takes it",
    "state": "reading, appending and committing sequences, and what they take of memory and disk",
    "scoring": "the passes of SAM over a sequence: the literal form against the served one",
    "training": "a learner's step: the literal form through autograd against the one that learns; memory, tables",
}
"""Name → what it measures, in a line. Each is a module of this package with a function `run` (`run.Bench`)."""

ON_BROKER = ("ingest", "latency", "freshness")
"""Those that need a broker."""
