"""The laboratory is fair to short models: where long interests count for nothing, length brings nothing."""

import io

import pytest
from rich.console import Console

from stream.lab.arms import judge, play
from stream.lab.script import Scenario
from stream.simulation.config import WorldConfig
from stream.statistics import Interval

COURSES = {"sam-1000": (("long", 0.5),), "sam-50": (("short", 0.5),)}


def gain_of_length(world: WorldConfig) -> Interval:
    """By how much more is clicked with SAM-1000 than with SAM-50, both learning online."""
    scenario = Scenario(world=world, rate=15.0, warm_up_s=60.0, measured_s=50.0)
    arms = judge(play(scenario, 3, 1, Console(file=io.StringIO()), 1, COURSES))
    gain = arms["long"].lift(arms["short"])
    print(f"dormant {world.dormant:g}: {gain}")
    return gain


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_length_brings_nothing_where_dormant_interests_are_nothing() -> None:
    gain = gain_of_length(WorldConfig(dormant=0.0))
    assert gain.low < 0
    assert gain.value < 0.05


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_length_brings_much_in_the_default_world() -> None:
    gain = gain_of_length(WorldConfig())
    assert gain.low > 0.05
