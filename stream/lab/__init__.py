"""Experiments in virtual time: the real models and joiner in simulated worlds and on real data, without Kafka."""

LABS: dict[str, str] = {
    "arms": "click rates of models with long and short histories, frozen and online, in the same simulated worlds",
    "position": "click rates of a model that is told the places of what was shown, and of one that is not",
    "models": "every kind of model on the same real visits: how well each ranks, and what it costs",
    "freshness": "click rate and AUC by the time between two updates, in a simulated world and on real baskets",
}
"""Name → what it measures. Each is a module of this package with a function `run` (`stream.cli.findings.Case`)."""
