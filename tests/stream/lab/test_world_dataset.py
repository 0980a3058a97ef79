"""A simulated world as a data set: the same every time, and nothing of a visit is known before it."""

from stream.datasets.base import Visit
from stream.lab.world_dataset import WorldDataset
from stream.simulation.config import WorldConfig

SMALL = WorldConfig(users=8, history=20, categories=6, items_per_category=4, interests=3, candidates=6)


def test_it_is_the_same_every_time_and_says_how_much_there_is() -> None:
    dataset = WorldDataset(SMALL, seed=3, visits=40)
    steps = list(dataset.steps())
    assert steps == list(WorldDataset(SMALL, seed=3, visits=40).steps())
    assert steps != list(WorldDataset(SMALL, seed=4, visits=40).steps())
    visits = [step for step in steps if isinstance(step, Visit)]
    assert dataset.totals.visits == len(visits) == 40
    assert dataset.totals.samples == 40 * SMALL.candidates
    assert dataset.totals.positives == sum(len(visit.clicks) for visit in visits)
    assert dataset.totals.behaviors == sum(len(step.behaviors) for step in steps) > SMALL.users * SMALL.history


def test_steps_come_in_order_and_clicks_are_behaviours_of_their_visit() -> None:
    last = 0
    for step in WorldDataset(SMALL, visits=40).steps():
        assert step.behaviors
        ts = step.impression.ts if isinstance(step, Visit) else step.behaviors[0].ts
        assert last <= ts
        last = ts
        assert all(ts <= each.ts for each in step.behaviors)
        if isinstance(step, Visit):
            clicked = [each.item for each in step.clicks]
            assert clicked == [each.item for each in step.behaviors if each.action == "click"]
            assert set(clicked) <= {each.item for each in step.impression.candidates}
