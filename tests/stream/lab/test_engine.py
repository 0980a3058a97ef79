"""Environments in virtual time: forks are independent, and rankers see exactly what a running system would show."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

from model.example import Example
from model.spec import preset
from state.behavior import action_key
from stream.lab.engine import Environment, Rollout
from stream.lab.rankers import FixedScores, ModelRanker, PopularityRanker, Ranker
from stream.lab.results import ArmResults
from stream.lab.script import START, Scenario, Script, generate_script
from stream.simulation.config import WorldConfig

WORLD = WorldConfig(
    users=40, history=80, categories=10, items_per_category=6, interests=3, candidates=12, lifetime_s=40.0, base=-2.0
)
SCENARIO = Scenario(world=WORLD, seed=3, rate=8.0, warm_up_s=25.0, measured_s=25.0, slots=4)
SCRIPT = generate_script(SCENARIO)


def quiet(_: int) -> None:
    pass


def run_alone(ranker: Ranker, update_s: float | None = 0.5, script: Script = SCRIPT) -> Rollout:
    environment = Environment(script)
    environment.warm_up(ranker, quiet)
    return environment.rollout(ranker, update_s, quiet)


@dataclass
class Spy:
    """Ranks at random, or in the reverse of that order; records what it was asked and what it learned."""

    turned: bool = False
    asked: dict[int, Example] = field(default_factory=dict)
    learned: list[tuple[int, int]] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    published: list[int] = field(default_factory=list)

    def score(self, examples: Sequence[Example], visits: Sequence[int]) -> list[npt.NDArray[np.float64]]:
        self.asked.update(zip(visits, examples, strict=True))
        permutations = FixedScores.random(SCRIPT).score(examples, visits)
        return [-each for each in permutations] if self.turned else permutations

    def learn(self, examples: Sequence[Example]) -> None:
        for example in examples:
            assert example.labels is not None
            self.learned += [(example.ts, int(label)) for label in example.labels]
            assert example.positions is not None
            rows = zip(example.items.tolist(), example.positions.tolist(), strict=True)
            self.places += [(example.ts, item, place) for item, place in rows]

    def publish(self) -> None:
        self.published.append(len(self.learned))


@pytest.mark.long
def test_the_same_scenario_is_the_same_world_and_another_seed_another() -> None:
    generate_script.cache_clear()
    again = generate_script(SCENARIO)
    assert all(np.array_equal(getattr(again, name), getattr(SCRIPT, name)) for name in ("ts", "items", "would_click"))
    other = generate_script(Scenario(world=WORLD, seed=4, rate=8.0, warm_up_s=25.0, measured_s=25.0))
    assert not np.array_equal(other.items[:50], SCRIPT.items[:50])


@pytest.mark.long
def test_the_oracle_misses_nothing_and_nobody_beats_it() -> None:
    oracle, permutations, counted = (
        run_alone(each) for each in (FixedScores.oracle(SCRIPT), FixedScores.random(SCRIPT), PopularityRanker())
    )
    assert ArmResults.of([oracle]).regret() == pytest.approx((0, 0, 0), abs=1e-9)
    for other in (permutations, counted):
        assert (other.expected <= oracle.best + 1e-9).all()
    assert permutations.clicks.sum() / permutations.expected.sum() == pytest.approx(1, abs=0.15)
    assert ArmResults.of([permutations]).auc().value == pytest.approx(0.5, abs=0.04)
    assert ArmResults.of([oracle]).lift(ArmResults.of([permutations])).low > 0


def test_every_shown_item_is_learned_once_with_the_outcome_that_the_script_has() -> None:
    spy = Spy()
    found = run_alone(spy)
    closed = SCRIPT.ts[SCRIPT.ts < SCENARIO.end - 10_000]
    for ts in np.unique(closed).tolist():
        visits = np.flatnonzero(SCRIPT.ts == ts)
        labels = [label for at, label in spy.learned if at == ts]
        assert len(labels) == SCENARIO.slots * len(visits)
        orders = [
            SCRIPT.permutations[visit] if visit < SCRIPT.measured else found.order[visit - SCRIPT.measured]
            for visit in visits
        ]
        clicks = sum(
            int(SCRIPT.would_click[visit, order[: SCENARIO.slots]].sum())
            for visit, order in zip(visits, orders, strict=True)
        )
        assert sum(labels) == clicks


def test_a_sequence_is_what_came_before_and_holds_this_arm_s_clicks_alone() -> None:
    straight, turned = Spy(), Spy(turned=True)
    first, second = run_alone(straight), run_alone(turned)
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


@pytest.mark.long
def test_what_is_learned_has_the_place_at_which_it_was_shown() -> None:
    spy = Spy()
    found = run_alone(spy)
    shown = {
        (int(SCRIPT.ts[visit]), int(SCRIPT.item_keys[visit, candidate]), place)
        for visit in range(SCRIPT.measured, len(SCRIPT))
        for place, candidate in enumerate(found.order[visit - SCRIPT.measured, : SCENARIO.slots])
    }
    served = {each for each in spy.places if each[0] >= SCENARIO.warm_up_end}
    assert served
    assert served <= shown


@pytest.mark.long
def test_with_position_bias_a_click_needs_a_look_as_well() -> None:
    assert SCRIPT.looked.all(), "by default all that is shown is looked at"
    script = generate_script(replace(SCENARIO, world=replace(WORLD, position_bias=1.0)))
    assert np.array_equal(script.would_click, SCRIPT.would_click), "likes are what they were"
    assert script.looked.shape == (len(script), SCENARIO.slots)
    assert script.looked.mean(axis=0) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4], abs=0.1)
    oracle, permutations = (
        run_alone(each, script=script) for each in (FixedScores.oracle(script), FixedScores.random(script))
    )
    assert ArmResults.of([oracle]).regret() == pytest.approx((0, 0, 0), abs=1e-9)
    assert ArmResults.of([permutations]).regret().low > 0
    first, shown = script.measured, oracle.order[:, : SCENARIO.slots]
    liked = np.take_along_axis(script.would_click[first:], shown, axis=1)
    assert np.array_equal(oracle.clicks, (liked & script.looked[first:]).sum(axis=1))
    assert oracle.clicks.sum() < liked.sum()
    assert oracle.clicks.sum() / oracle.expected.sum() == pytest.approx(1, abs=0.15)


@pytest.mark.long
def test_a_fork_is_independent() -> None:
    environment, alone = Environment(SCRIPT), Environment(SCRIPT)
    for each in (environment, alone):
        each.warm_up(FixedScores.random(SCRIPT), quiet)
    fork = environment.fork()
    spies = Spy(), Spy(), Spy(turned=True)
    fork.rollout(spies[2], 0.5, quiet)
    environment.rollout(spies[0], 0.5, quiet)
    alone.rollout(spies[1], 0.5, quiet)
    assert spies[0].learned == spies[1].learned
    for visit, example in spies[0].asked.items():
        assert np.array_equal(example.sequence, spies[1].asked[visit].sequence)


@pytest.mark.long
@pytest.mark.parametrize(("update_s", "times"), [(0.5, 50), (5.0, 5), (10.0, 2), (None, 0)])
def test_updates_come_as_often_as_they_are_asked_for(update_s: float | None, times: int) -> None:
    spy = Spy()
    run_alone(spy, update_s)
    assert abs(len(spy.published) - 1 - times) <= 1, "one at the end of the warm-up, and these"
    if update_s is None:
        assert len(spy.learned) == spy.published[0], "a frozen ranker learns nothing"


@pytest.mark.long
def test_a_frozen_model_keeps_its_scores_and_an_online_one_learns() -> None:
    model = ModelRanker(preset("mean-20"), seed=0)
    environment = Environment(SCRIPT)
    environment.warm_up(model, quiet)
    frozen, online = model.fork(), model.fork()
    asked = [Example(SCRIPT.histories[0], int(SCRIPT.ts[0]), SCRIPT.item_keys[0], SCRIPT.category_keys[0])]
    before = model.score(asked, [0])[0]
    environment.fork().rollout(frozen, None, quiet)
    environment.rollout(online, 0.5, quiet)
    assert np.array_equal(frozen.score(asked, [0])[0], before)
    assert not np.array_equal(online.score(asked, [0])[0], before)


def test_popularity_gives_a_new_item_the_mean_click_rate() -> None:
    popularity = PopularityRanker(prior=10.0)
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
