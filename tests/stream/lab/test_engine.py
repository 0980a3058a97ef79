"""A world in virtual time: twins are alike until something else is shown, and rankers know what they may, no more."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from model.example import Example
from model.spec import preset
from state.behavior import action_key
from stream.lab.engine import Played, Stage
from stream.lab.rankers import Learned, Popularity, Ranker, Told
from stream.lab.results import Judged
from stream.lab.script import START, Scenario, Script, write
from stream.simulation.config import WorldConfig

WORLD = WorldConfig(
    users=40, history=80, categories=10, items_per_category=6, interests=3, candidates=12, lifetime_s=40.0, base=-2.0
)
SCENARIO = Scenario(world=WORLD, seed=3, rate=8.0, warm_up_s=25.0, measured_s=25.0, slots=4)
SCRIPT = write(SCENARIO)


def quiet(_: int) -> None:
    pass


def played(ranker: Ranker, update_s: float | None = 0.5, script: Script = SCRIPT) -> Played:
    stage = Stage(script)
    stage.warm_up(ranker, quiet)
    return stage.play(ranker, update_s, quiet)


@dataclass
class Spy:
    """Ranks by lot, or always the other way round; keeps all that it was asked and told."""

    turned: bool = False
    asked: dict[int, Example] = field(default_factory=dict)
    told: list[tuple[int, int]] = field(default_factory=list)
    published: list[int] = field(default_factory=list)

    def score(self, examples: Sequence[Example], visits: Sequence[int]) -> list[npt.NDArray[np.float64]]:
        self.asked.update(zip(visits, examples, strict=True))
        lots = Told.random(SCRIPT).score(examples, visits)
        return [-each for each in lots] if self.turned else lots

    def learn(self, examples: Sequence[Example]) -> None:
        for example in examples:
            assert example.labels is not None
            self.told += [(example.ts, int(label)) for label in example.labels]

    def publish(self) -> None:
        self.published.append(len(self.told))


def test_the_same_scenario_is_the_same_world_and_another_seed_another() -> None:
    write.cache_clear()
    again = write(SCENARIO)
    assert all(np.array_equal(getattr(again, name), getattr(SCRIPT, name)) for name in ("ts", "items", "would_click"))
    other = write(Scenario(world=WORLD, seed=4, rate=8.0, warm_up_s=25.0, measured_s=25.0))
    assert not np.array_equal(other.items[:50], SCRIPT.items[:50])


def test_the_oracle_misses_nothing_and_nobody_beats_it() -> None:
    oracle, lots, counted = (played(each) for each in (Told.oracle(SCRIPT), Told.random(SCRIPT), Popularity()))
    assert Judged.of([oracle]).regret() == pytest.approx((0, 0, 0), abs=1e-9)
    for other in (lots, counted):
        assert (other.expected <= oracle.best + 1e-9).all()
    assert lots.clicks.sum() / lots.expected.sum() == pytest.approx(1, abs=0.15)
    assert Judged.of([lots]).auc().value == pytest.approx(0.5, abs=0.04)
    assert Judged.of([oracle]).lift(Judged.of([lots])).low > 0


def test_every_shown_item_is_learned_once_with_the_outcome_that_the_script_has() -> None:
    spy = Spy()
    found = played(spy)
    closed = SCRIPT.ts[SCRIPT.ts < SCENARIO.ends - 10_000]
    for ts in np.unique(closed).tolist():
        visits = np.flatnonzero(SCRIPT.ts == ts)
        labels = [label for at, label in spy.told if at == ts]
        assert len(labels) == SCENARIO.slots * len(visits)
        orders = [
            SCRIPT.lots[visit] if visit < SCRIPT.measured else found.order[visit - SCRIPT.measured] for visit in visits
        ]
        clicks = sum(
            int(SCRIPT.would_click[visit, order[: SCENARIO.slots]].sum())
            for visit, order in zip(visits, orders, strict=True)
        )
        assert sum(labels) == clicks


def test_a_sequence_is_what_came_before_and_holds_this_arm_s_clicks_alone() -> None:
    straight, turned = Spy(), Spy(turned=True)
    first, second = played(straight), played(turned)
    click = action_key("click")
    for spy in (straight, turned):
        for visit, example in spy.asked.items():
            # Behaviours of one visit lie a millisecond apart; nothing else is later than the question.
            assert example.sequence["ts"].max() <= SCRIPT.ts[visit] + 20
            mine = example.sequence[example.sequence["action"] == click]
            assert (mine["ts"] > START).all()
        assert any((example.sequence["action"] == click).any() for example in spy.asked.values())
    shown_first = {(int(v), int(c)) for v, row in enumerate(first.order[:, :4]) for c in row}
    shown_second = {(int(v), int(c)) for v, row in enumerate(second.order[:, :4]) for c in row}
    assert shown_first.isdisjoint(shown_second), "the other way round, and 12 candidates for 4 slots"
    early = next(iter(straight.asked))
    assert np.array_equal(straight.asked[early].sequence, turned.asked[early].sequence)
    assert any(
        not np.array_equal(straight.asked[visit].sequence, turned.asked[visit].sequence) for visit in straight.asked
    )
    assert np.array_equal(first.would_click, second.would_click)


def test_a_twin_goes_its_own_way() -> None:
    stage, alone = Stage(SCRIPT), Stage(SCRIPT)
    for each in (stage, alone):
        each.warm_up(Told.random(SCRIPT), quiet)
    twin = stage.twin()
    spies = Spy(), Spy(), Spy(turned=True)
    twin.play(spies[2], 0.5, quiet)
    stage.play(spies[0], 0.5, quiet)
    alone.play(spies[1], 0.5, quiet)
    assert spies[0].told == spies[1].told
    for visit, example in spies[0].asked.items():
        assert np.array_equal(example.sequence, spies[1].asked[visit].sequence)


@pytest.mark.parametrize(("update_s", "times"), [(0.5, 50), (5.0, 5), (10.0, 2), (None, 0)])
def test_updates_come_as_often_as_they_are_asked_for(update_s: float | None, times: int) -> None:
    spy = Spy()
    played(spy, update_s)
    assert abs(len(spy.published) - 1 - times) <= 1, "one at the end of the warm-up, and these"
    if update_s is None:
        assert len(spy.told) == spy.published[0], "who is frozen is told nothing"


def test_a_frozen_model_says_what_it_said_and_one_online_learns() -> None:
    model = Learned(preset("mean-20"), seed=0)
    stage = Stage(SCRIPT)
    stage.warm_up(model, quiet)
    frozen, online = model.twin(), model.twin()
    asked = [Example(SCRIPT.histories[0], int(SCRIPT.ts[0]), SCRIPT.item_keys[0], SCRIPT.category_keys[0])]
    before = model.score(asked, [0])[0]
    stage.twin().play(frozen, None, quiet)
    stage.play(online, 0.5, quiet)
    assert np.array_equal(frozen.score(asked, [0])[0], before)
    assert not np.array_equal(online.score(asked, [0])[0], before)


def test_popularity_takes_a_new_item_for_an_average_one() -> None:
    popularity = Popularity(prior=10.0)
    keys, none = np.array([1, 2, 3], dtype=np.uint64), np.zeros(3, dtype=np.uint32)

    def seen(*labels: float) -> Example:
        return Example(
            SCRIPT.histories[0], START, keys[: len(labels)], none[: len(labels)], np.array(labels, dtype=np.float32)
        )

    for _ in range(50):
        popularity.learn([seen(1, 0)])
    loved, ignored, new = popularity.score([Example(SCRIPT.histories[0], START, keys, none)], [0])[0]
    assert loved > new > ignored
    assert new == pytest.approx(0.5, abs=0.01)
    assert loved == pytest.approx((50 + 10 * 0.5) / 60, abs=0.01)
