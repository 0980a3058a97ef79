"""Verdicts for the tests' experiments: alpha 0.05, and a lift of 10% as the smallest that is worth finding."""

from functools import partial

from stream.experiment import interleaving, verdict

analyse = partial(verdict.analyse, alpha=0.05, minimum_effect=0.1)
preference = partial(interleaving.preference, alpha=0.05)
