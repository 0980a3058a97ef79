"""A laboratory in virtual time: the real models and joiner in simulated worlds and on real data, without Kafka."""

LABS: dict[str, str] = {
    "arms": "what length brings and what freshness brings: twin copies of a world, one for each way to rank",
    "freshness": "click rate and AUC against the time between two updates, in a world and on real baskets",
}
"""Name → what it finds out, in a line. Each is a module of this package with a function `run`, as in `stream.bench`."""
