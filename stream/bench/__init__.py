"""Benchmarks, one file each: what is compared is measured in the same run; results are medians with quartiles."""

BENCHES: dict[str, str] = {
    "experiment": "how often an A/B test names a winner, by the true lift; simulated, seeded, without a broker",
    "interleaving": "impressions that interleaving and A/B tests need to find the better ranking; simulated, seeded",
    "ingest": "behaviours a second from Kafka to committed sequences, compared with Faust and Quix Streams",
    "latency": "time from the scheduled impression to the received score, at rising request rates",
    "gateway": "time from the scheduled request to its answer over HTTP, beside the Kafka client's",
    "cost": "CPU time of worker and trainer for an impression, by step, at a steady rate",
    "freshness": "time from a click to the first score of a model that has learned from it",
    "sync": "size and time of a model update, and for how long a worker pauses to apply it",
    "state": "time to read, append and commit sequences, and their memory and disk",
    "growth": "latency and a worker's memory, by the number of users with full histories",
    "soak": "memory, descriptors, disk, updates, lag and latency over time under steady traffic with restarts",
    "takeover": "time from kill -9 of a worker to the first answer of the one that takes its partition over",
    "scoring": "time of SAM's attention: the formulas taken literally against the served implementation",
    "learning": "how well arms and peers rank real visits, each sample predicted before it is learned from",
    "trees": "LightGBM on counted features behind the same worker, beside arms: how well it ranks and what it costs",
    "forgetting": "how well a model ranks real visits when its tables forget, against one that forgets nothing",
    "counting": "how much a trainer's learning slows while it counts behaviours for the statistics",
    "tables": "memory of a trainer and a worker while many more keys pass than live at a time, by how tables forget",
    "volume": "bytes that an impression with ten shown items and three clicks takes in each topic",
    "ranks": "samples a second of a trainer of one and of two ranks, and the bytes that they exchange in a step",
    "training": "time and memory of a training step: the literal form with autograd against the learner",
}
"""Name → what it measures. Each is a module of this package with a function `run` (`stream.cli.findings.Case`)."""
