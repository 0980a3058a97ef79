"""`lab arms` is fair to short models: where dormant interests do not count, length brings nothing."""

import io

import pytest
from rich.console import Console

from stream.experiment.statistics.intervals import Interval
from stream.lab.arms import combine, run_arms
from stream.lab.script import Scenario
from stream.simulation.config import WorldConfig

# DIN, because it learns enough within the test's time: half-trained models differ by chance.
RUNS = {"din-1000": (("long", 0.5),), "din-50": (("short", 0.5),)}


def gain_of_length(world: WorldConfig) -> Interval:
    """By how much more is clicked with DIN-1000 than with DIN-50, both learning online; two worlds together."""
    scenario = Scenario(world=world, rate=16.0, warm_up_s=120.0, measured_s=60.0)
    arms = combine(run_arms(scenario, 0, 2, Console(file=io.StringIO()), 2, RUNS))
    return arms["long"].lift(arms["short"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_length_helps_only_where_dormant_interests_count() -> None:
    nothing, much = gain_of_length(WorldConfig(dormant=0.0)), gain_of_length(WorldConfig())
    assert nothing.low < 0
    assert nothing.value < 0.04
    assert nothing.high < 0.08
    assert much.low > 0.2
