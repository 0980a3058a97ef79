"""What happens in a simulated world independently of what is shown: visits, candidates, and potential clicks.

Every arm runs through the same script. Whether a user would click is drawn for all candidates before anything is ranked
(common random numbers), so arms that show the same item in the same visit see the same outcome. Arms differ in what
they show, and in the users' sequences, which contain the clicks of that arm only.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from state.behavior import BEHAVIOR, BehaviorArray, action_key, category_key, item_key
from stream.simulation.config import WorldConfig
from stream.simulation.hashing import Floats, Ints
from stream.simulation.world import (
    ACTIONS,
    BehaviorColumns,
    World,
    category_name,
    draw_click_delays,
    examination,
    item_name,
)

START = 1_800_000_000_000
"""When virtual time begins, ms since the Unix epoch."""


class Scenario(Struct, frozen=True, kw_only=True):
    """A world, its traffic, and how long each phase lasts.

    Attributes:
        world: parameters of the world.
        seed: of the world and of all that happens in it.
        rate: mean impressions a second (Poisson).
        warm_up_s: length of the warm-up, in which random items are shown and every model learns from them.
        measured_s: length of the phase after it, in which each arm shows what it ranks best.
        slots: items shown in an impression.
    """

    world: WorldConfig = WorldConfig()
    seed: int = 0
    rate: float = 8.0
    warm_up_s: float = 300.0
    measured_s: float = 450.0
    slots: int = 10

    @property
    def warm_up_end(self) -> int:
        """Time (ms) at which the warm-up ends."""
        return START + round(1000 * self.warm_up_s)

    @property
    def end(self) -> int:
        """Time (ms) at which the scenario ends."""
        return self.warm_up_end + round(1000 * self.measured_s)


QUICK = Scenario(
    world=WorldConfig(users=60, history=200, categories=12, items_per_category=10, interests=4, candidates=20),
    rate=4.0,
    warm_up_s=30.0,
    measured_s=20.0,
    slots=5,
)
"""A small and short scenario, to see that an experiment runs."""


@dataclass(frozen=True, slots=True)
class Script:
    """V visits of C candidates each, in the order of time.

    Attributes:
        scenario: what the script was generated from.
        users: (V,) user indices.
        ts: (V,) times, ms.
        items: (V, C) indices of the candidates.
        categories: (V, C) indices of their categories.
        item_keys: (V, C) uint64 keys of the items, as models get them.
        category_keys: (V, C) uint32 keys of the categories.
        truth: (V, C) true probabilities of a click on an item that is looked at.
        would_click: (V, C) whether the user clicks the item if it is shown and looked at.
        looked: (V, S) whether the user looks at each place of what is shown; everywhere without position bias.
        delays: (V, C) time from the impression to a click, ms.
        permutations: (V, C) candidate indices in a random order.
        behaviors: packed behaviours that do not come from impressions, visit after visit.
        behavior_ends: (V + 1,) the behaviours before visit v are `behaviors[behavior_ends[v]:behavior_ends[v + 1]]`.
        histories: (users, history) packed behaviours of each user before the start.
        measured: index of the first visit after the warm-up.
    """

    scenario: Scenario
    users: Ints
    ts: Ints
    items: Ints
    categories: Ints
    item_keys: npt.NDArray[np.uint64]
    category_keys: npt.NDArray[np.uint32]
    truth: Floats
    would_click: npt.NDArray[np.bool_]
    looked: npt.NDArray[np.bool_]
    delays: Ints
    permutations: Ints
    behaviors: BehaviorArray
    behavior_ends: Ints
    histories: BehaviorArray
    measured: int

    def __len__(self) -> int:
        return len(self.users)

    @property
    def best(self) -> Floats:
        """(V,) expected clicks when the truly best items are shown, the best first."""
        looked = self.examination
        best: Floats = np.sort(self.truth, axis=1)[:, ::-1][:, : len(looked)] @ looked
        return best

    @property
    def examination(self) -> Floats:
        """(S,) probabilities that each place is looked at."""
        return examination(self.scenario.world, self.looked.shape[1])


def with_measured_time(scenario: Scenario, seconds: float | None) -> Scenario:
    """Return the scenario with another length of its measured phase; None changes nothing."""
    return scenario if seconds is None else msgspec.structs.replace(scenario, measured_s=seconds)


@lru_cache(maxsize=2)
def generate_script(scenario: Scenario) -> Script:
    """Return the script of a scenario; the same scenario has the same script.

    With position bias a click needs a look as well. Looks are drawn by place, likes by item, so that all arms have the
    same of both.
    """
    config = scenario.world
    world = World(msgspec.structs.replace(config, position_bias=0.0), seed=scenario.seed, start=START)
    rng = np.random.default_rng([scenario.seed, 5])
    history = world.history()
    count = int(rng.poisson(scenario.rate * (scenario.end - START) / 1000))
    ts = np.sort(rng.integers(START, scenario.end, count))
    users = world.visitors(count)
    shape = count, config.candidates
    items, truth = np.empty(shape, np.int64), np.empty(shape)
    would_click = np.empty(shape, np.bool_)
    behaviors: list[BehaviorColumns] = []
    for visit, (user, now) in enumerate(zip(users.tolist(), ts.tolist(), strict=True)):
        behaviors.append(world.browse(user, now))
        slate = world.impression(user, now)
        items[visit] = slate.items
        truth[visit] = world.click_probability(user, slate.items, now)
        would_click[visit] = world.clicks(user, slate.items, now)
    all_behaviors = _concatenated([history, *behaviors])
    packed, past = _packed(all_behaviors), len(history)
    categories = world.catalogue.category(items.ravel()).reshape(shape)
    by_user = np.argsort(history.users, kind="stable")
    return Script(
        scenario=scenario,
        users=users,
        ts=ts,
        items=items,
        categories=categories,
        item_keys=_item_keys(items),
        category_keys=_category_keys(categories),
        truth=truth,
        would_click=would_click,
        delays=(1000 * draw_click_delays(rng, shape)).astype(np.int64),
        permutations=rng.random(shape).argsort(axis=1),
        looked=_looked(rng, examination(config, min(scenario.slots, config.candidates)), count),
        behaviors=packed[past:],
        behavior_ends=np.cumsum([0, *(len(each) for each in behaviors)]),
        histories=packed[:past][by_user].reshape(config.users, config.history),
        measured=int(np.searchsorted(ts, scenario.warm_up_end)),
    )


def _looked(rng: np.random.Generator, examination: Floats, visits: int) -> npt.NDArray[np.bool_]:
    looked: npt.NDArray[np.bool_] = rng.random((visits, len(examination))) < examination
    return looked


def click_behavior(item_key: int, category_key: int, ts: int) -> BehaviorArray:
    """Return the behaviour of a click, as an array of one."""
    return np.array([(item_key, category_key, action_key("click"), ts)], dtype=BEHAVIOR)


def _concatenated(behaviors: list[BehaviorColumns]) -> BehaviorColumns:
    columns = (np.concatenate([getattr(each, field.name) for each in behaviors]) for field in fields(BehaviorColumns))
    return BehaviorColumns(*columns)


def _packed(behaviors: BehaviorColumns) -> BehaviorArray:
    packed = np.empty(len(behaviors), dtype=BEHAVIOR)
    packed["item"] = _item_keys(behaviors.items)
    packed["category"] = _category_keys(behaviors.categories)
    packed["action"] = np.array([action_key(action) for action in ACTIONS], dtype=np.uint16)[behaviors.actions]
    packed["ts"] = behaviors.ts
    return packed


def _item_keys(items: Ints) -> npt.NDArray[np.uint64]:
    distinct, places = np.unique(items, return_inverse=True)
    keys = np.array([item_key(item_name(item)) for item in distinct.tolist()], dtype=np.uint64)
    return keys[places].reshape(items.shape)


def _category_keys(categories: Ints) -> npt.NDArray[np.uint32]:
    distinct, places = np.unique(categories, return_inverse=True)
    keys = np.array([category_key(category_name(each)) for each in distinct.tolist()], dtype=np.uint32)
    return keys[places].reshape(categories.shape)
