"""A simulated world as a data set: every candidate of a visit is shown, so that all rankers see the same samples."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice

import numpy as np

from stream.datasets.base import DatasetTotals, Observation, Step, Visit
from stream.lab.script import START
from stream.schema.events import Behavior, Click, Impression
from stream.schema.features import FeatureDefinition
from stream.simulation.config import WorldConfig
from stream.simulation.world import World, user_name

NAME = "world"
_GAP_MS = 2000
"""Mean time between two visits."""
_VISITS = 12_000


class WorldDataset:
    """The histories of all users, then visits; see `stream.datasets.base.Dataset`.

    Args:
        config: the world.
        seed: of all that happens in it.
        visits: how many there are.
    """

    name = NAME
    has_exposures = True
    features: Mapping[str, FeatureDefinition] = {}
    advised: Sequence[str] = ()

    def __init__(self, config: WorldConfig, *, seed: int = 0, visits: int = _VISITS) -> None:
        self._config, self._seed, self._visits = config, seed, visits
        self.totals = DatasetTotals.of(self.steps())

    def steps(self) -> Iterator[Step]:
        """Yield every visit and observation, in order of event time."""
        world = World(self._config, seed=self._seed, start=START)
        for behavior in world.history().events():
            yield Observation((behavior,))
        yield from islice(self._visits_of(world), self._visits)

    def _visits_of(self, world: World) -> Iterator[Visit]:
        rng = np.random.default_rng([self._seed, 5])
        ts = START
        for number in count():
            ts += 1 + int(rng.exponential(_GAP_MS))
            [user] = world.visitors(1).tolist()
            slate = world.impression(user, ts)
            name, offered, request = user_name(user), slate.candidates(), str(number)
            clicked = [offered[place] for place in np.flatnonzero(world.clicks(user, slate.items, ts))]
            done = [Behavior(name, each.item, ts, each.category, "click") for each in clicked]
            done += world.browse(user, ts).events()
            if done:  # a visit that leaves nothing is no visit
                impression = Impression(request, name, ts, offered, slots=len(offered))
                yield Visit(impression, tuple(Click(request, name, each.item, ts) for each in clicked), tuple(done))
