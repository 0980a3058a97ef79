"""The simulated world: reproducible, true to its probabilities, and worth a long memory exactly when it should be."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.metrics import auc
from stream.errors import SettingsError
from stream.schema.events import Behavior
from stream.simulation.config import WorldConfig, with_changes
from stream.simulation.pictures import main as draw
from stream.simulation.world import World, category_name, examination, item_name, user_name

START = 1_800_000_000_000
SMALL = WorldConfig(users=20, history=300, categories=12, items_per_category=6, interests=3, block=20, candidates=15)


def changed(config: WorldConfig, **values: Any) -> WorldConfig:
    return WorldConfig(**({name: getattr(config, name) for name in config.__struct_fields__} | values))


def story(world: World) -> list[Any]:
    """Some of everything that can happen."""
    told: list[Any] = [world.history().items.tolist()]
    for user in world.visitors(20).tolist():
        slate = world.impression(user, START + 1000)
        told += [
            world.browse(user, START).items.tolist(),
            slate.items.tolist(),
            world.click_probability(user, slate.items, START).tolist(),
            world.clicks(user, slate.items, START).tolist(),
        ]
    return told


def test_same_seed_same_world() -> None:
    assert story(World(SMALL, seed=5, start=START)) == story(World(SMALL, seed=5, start=START))
    assert story(World(SMALL, seed=5, start=START)) != story(World(SMALL, seed=6, start=START))


def test_history_is_everyone_s_and_ends_before_the_start_in_order() -> None:
    behaviors = World(SMALL, start=START).history()
    assert np.bincount(behaviors.users).tolist() == [SMALL.history] * SMALL.users
    assert (np.diff(behaviors.ts) >= 0).all()
    assert behaviors.ts.max() < START
    first = next(behaviors.events())
    assert first == Behavior(
        user_name(int(behaviors.users[0])),
        item_name(int(behaviors.items[0])),
        int(behaviors.ts[0]),
        category_name(int(behaviors.categories[0])),
        first.action,
    )


def test_interests_come_in_blocks_and_return_after_all_the_others() -> None:
    config = changed(SMALL, noise=0.0, history=400)
    world = World(config, start=START)
    behaviors = world.history()
    for user in range(config.users):
        blocks = [
            (category, len(list(run)))
            for category, run in groupby(behaviors.categories[behaviors.users == user].tolist())
        ]
        order = [category for category, _ in blocks]
        assert set(order) == set(world.interests[user].tolist())
        assert all(order[i] == order[i + config.interests] for i in range(len(order) - config.interests))
        assert all(config.block / 2 <= length <= config.block * 3 / 2 for _, length in blocks[1:-1])


def auc_by_length(config: WorldConfig, lengths: tuple[int, ...], impressions: int = 800) -> list[float]:
    """How well counts of the candidate's category in the newest behaviours rank clicks on randomly chosen items."""
    world = World(config, start=START)
    behaviors = world.history()
    pasts = [behaviors.categories[behaviors.users == user].tolist() for user in range(config.users)]
    scores: list[list[float]] = [[] for _ in lengths]
    labels: list[float] = []
    for place, user in enumerate(world.visitors(impressions).tolist()):
        ts = START + 25 * place
        pasts[user] += world.browse(user, ts).categories.tolist()
        slate = world.impression(user, ts)
        labels += world.clicks(user, slate.items, ts).tolist()
        for length, of_length in zip(lengths, scores, strict=True):
            counts = np.bincount(pasts[user][-length:], minlength=config.categories)
            of_length += counts[slate.categories].tolist()
    return [auc(np.array(labels, dtype=np.float64), np.array(each)) for each in scores]


@pytest.mark.long
def test_a_long_history_knows_more_than_a_short_one() -> None:
    short, long = auc_by_length(WorldConfig(users=60), (50, 1000))
    assert long > 0.7
    assert long > short + 0.05


@pytest.mark.long
def test_without_dormant_interests_a_long_history_knows_nothing_more() -> None:
    short, long = auc_by_length(WorldConfig(users=60, dormant=0.0), (50, 1000))
    assert short > 0.55
    assert long < short + 0.01


def test_truth_is_a_pure_function_of_time() -> None:
    world, other = (World(SMALL, seed=1, start=START) for _ in range(2))
    items = world.catalogue.alive(START)[:10]
    later = START + 40_000
    before = world.click_probability(3, items, START)
    moved = world.click_probability(3, items, later)
    assert not np.allclose(before, moved)
    assert np.array_equal(other.click_probability(3, items, later), moved)
    assert np.array_equal(other.click_probability(3, items, START), before)
    assert np.array_equal(world.click_probability(3, items[::-1], START), before[::-1])
    assert ((before > 0) & (before < 1)).all()


@pytest.mark.long
def test_clicks_happen_as_often_as_the_truth_says() -> None:
    world = World(changed(SMALL, base=-1.0), start=START)
    items = world.impression(2, START).items
    draws = 1500
    seen = sum(world.clicks(2, items, START).astype(int) for _ in range(draws)) / draws
    truth = world.click_probability(2, items, START)
    assert (abs(seen - truth) < 5 * np.sqrt(truth * (1 - truth) / draws)).all()


def test_interest_decides_and_dormant_weighs() -> None:
    quiet = changed(
        SMALL, taste=0.0, quality=0.0, fashion=0.0, user_effect_sd=0.0, dormant=0.5, base=-3.0, interest=2.0
    )
    world = World(quiet, start=START)
    items = world.catalogue.alive(START)
    categories = world.catalogue.category(items)
    current = int(world.current_interest(np.array([0]))[0])
    odds = np.log(1 / (1 / world.click_probability(0, items, START) - 1))
    expected = np.where(categories == current, -1.0, np.where(np.isin(categories, world.interests[0]), -2.0, -3.0))
    assert np.allclose(odds, expected)


@settings(max_examples=25)
@given(user=st.integers(0, SMALL.users - 1), seconds=st.integers(0, 10_000), seed=st.integers(0, 100))
def test_candidates_are_distinct_and_alive_and_some_are_of_interest(user: int, seconds: int, seed: int) -> None:
    world = World(SMALL, seed=seed, start=START)
    ts = START + 1000 * seconds
    slate = world.impression(user, ts)
    assert len(set(slate.items.tolist())) == SMALL.candidates
    assert np.isin(slate.items, world.catalogue.alive(ts)).all()
    assert np.array_equal(slate.categories, world.catalogue.category(slate.items))
    wanted = round(SMALL.from_interests * SMALL.candidates)
    assert np.isin(slate.categories, world.interests[user]).sum() >= wanted
    assert [each.item for each in slate.candidates()] == [item_name(item) for item in slate.items.tolist()]


def test_more_interest_candidates_than_there_are_items_is_no_error() -> None:
    config = changed(SMALL, interests=1, items_per_category=2, from_interests=0.5, from_popular=0.0)
    assert len(World(config).impression(0, 0).items) == config.candidates


def test_items_are_born_and_die_and_keep_their_place() -> None:
    catalogue = World(SMALL, start=START).catalogue
    now, soon, later = (catalogue.alive(START + int(1000 * SMALL.lifetime_s * lives)) for lives in (0, 0.1, 1.6))
    assert 0 < (now != soon).mean() < 0.5
    assert (now != later).all()
    assert np.array_equal(catalogue.category(now), catalogue.category(later))
    assert np.array_equal(catalogue.alive(START - 10**10), catalogue.alive(START - 1)), "nothing dies before the start"


def test_quality_fashion_and_taste_have_the_spread_they_should() -> None:
    config = changed(SMALL, categories=200, quality=0.7, fashion=0.4)
    catalogue = World(config, seed=3).catalogue
    vectors = catalogue.vectors(np.arange(20_000))
    assert np.allclose(np.corrcoef(vectors.T), np.eye(vectors.shape[1]), atol=0.03)
    assert np.allclose(vectors.std(axis=0), 1, atol=0.03)
    assert catalogue.fashion(0).std() == pytest.approx(0.4, rel=0.25)
    quality = catalogue.appeal(np.arange(20_000), 0) - catalogue.fashion(0)[catalogue.category(np.arange(20_000))]
    assert quality.std() == pytest.approx(0.7, rel=0.05)


def test_popularity_has_a_long_tail() -> None:
    popularity = np.sort(World(WorldConfig()).catalogue.popularity)[::-1]
    assert popularity.sum() == pytest.approx(1)
    assert popularity[: len(popularity) // 10].sum() > 0.3


def test_best_and_even_are_what_showing_everything_would_tell() -> None:
    world = World(SMALL, start=START)
    slate = world.impression(1, START)
    truth = world.click_probability(1, slate.items, START)
    best, even = world.best_and_random(1, slate, START, 4)
    assert best == pytest.approx(sum(sorted(truth)[-4:]))
    assert even == pytest.approx(4 * truth.mean())
    everything = world.best_and_random(1, slate, START, 1000)
    assert everything == pytest.approx((truth.sum(), truth.sum()))


def test_truth_of_many_users_at_once_is_that_of_each() -> None:
    world = World(changed(SMALL, shift_s=50.0), seed=2, start=START)
    items, ts = world.catalogue.alive(START + 200_000), START + 200_000
    everyone = np.arange(SMALL.users)
    truth = world.click_probability(everyone[:, None], items, ts)
    assert truth.shape == (SMALL.users, len(items))
    for user in everyone.tolist():
        assert np.allclose(truth[user], world.click_probability(user, items, ts), rtol=1e-12)


def test_shifts_come_once_in_each_period_at_moments_that_the_seed_decides() -> None:
    shifts = World(changed(SMALL, shift_s=100.0), seed=4, start=START).catalogue.shifts
    moments = shifts.moments(START + 1_000_000)
    assert [int((moment - START) // 100_000) for moment in moments] == list(range(10))
    assert np.std(np.diff(moments)) > 5_000
    for number, moment in enumerate(moments):
        assert (shifts.count(int(moment) - 1), shifts.count(int(moment) + 1)) == (number, number + 1)
    assert World(changed(SMALL, shift_s=100.0), seed=5).catalogue.shifts.moments(10**6) != [m - START for m in moments]
    assert shifts.count(START - 10**9) == 0
    assert World(SMALL).catalogue.shifts.moments(10**12) == [], "none unless asked for"


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.1, 0.3, 1.0]), number=st.integers(0, 8))
def test_a_shift_makes_fashion_jump_and_interests_give_way(seed: int, share: float, number: int) -> None:
    config = changed(SMALL, categories=200, users=200, shift_s=100.0, shift_share=share, fashion=0.5)
    world = World(config, seed=seed, start=START)
    moment = int(world.catalogue.shifts.moments(START + 10**6)[number])
    before, after, later = moment - 1, moment + 1, moment + 500
    jumped = abs(world.catalogue.fashion(after) - world.catalogue.fashion(before)) > 0.05
    assert abs(jumped.mean() - share) < 0.15
    assert abs(world.catalogue.fashion(later) - world.catalogue.fashion(after)).max() < 0.05, "else it only drifts"
    users = np.arange(config.users)
    old, new = world.interests_at(users, before), world.interests_at(users, after)
    gone = (old != new).sum(axis=1)
    assert set(gone.tolist()) <= {0, 1}
    assert abs(gone.mean() - share) < 0.15
    for user in np.flatnonzero(gone).tolist():
        assert len(set(new[user].tolist())) == config.interests
        assert len(set(new[user].tolist()) - set(old[user].tolist())) == 1
    assert np.array_equal(World(config, seed=seed, start=START).interests_at(users, after), new)


def test_a_user_who_was_moved_follows_the_new_interest_and_clicks_on_it() -> None:
    quiet = {"taste": 0.0, "quality": 0.0, "fashion": 0.0, "user_effect_sd": 0.0, "dormant": 1.0, "noise": 0.0}
    world = World(changed(SMALL, shift_s=100.0, shift_share=1.0, organic=400.0, **quiet), start=START)
    ts = START + 10**6
    now = set(world.interests_at(np.array([0]), ts)[0].tolist())
    assert now != set(world.interests[0].tolist())
    assert set(world.browse(0, ts).categories.tolist()) == now
    items = world.catalogue.alive(ts)
    liked = world.click_probability(0, items, ts) > 0.1
    assert set(world.catalogue.category(items[liked]).tolist()) == now
    assert np.isin(world.impression(0, ts).categories, list(now)).sum() >= round(0.25 * SMALL.candidates)


@pytest.mark.long
def test_a_click_needs_a_look_and_looks_get_fewer_further_down() -> None:
    assert examination(SMALL, 5).tolist() == [1.0] * 5, "by default all that is shown is looked at"
    world = World(changed(SMALL, base=-0.5, position_bias=1.0), start=START)
    assert examination(world.config, 4) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    items, draws = world.impression(2, START).items, 3000
    seen = sum(world.clicks(2, items, START).astype(int) for _ in range(draws)) / draws
    truth = world.click_probability(2, items, START) / np.arange(1, len(items) + 1)
    assert world.shown_probability(2, items, START) == pytest.approx(truth)
    assert (abs(seen - truth) < 5 * np.sqrt(truth * (1 - truth) / draws)).all()


def test_a_sequel_is_wanted_by_who_came_to_the_second_forerunner_after_the_first() -> None:
    config = changed(SMALL, interest=0.0, taste=0.0, quality=0.0, fashion=0.0, user_effect_sd=0.0)
    world, plain = (World(changed(config, sequel=sequel), seed=1, start=START) for sequel in (3.0, 0.0))
    everyone = np.arange(config.users)
    wanted = world.sequels(everyone, START)
    assert 0 < wanted.mean() < 0.5
    items = world.catalogue.alive(START)
    odds = [
        np.log(p / (1 - p))
        for p in (each.click_probability(everyone[:, None], items, START) for each in (world, plain))
    ]
    expected = 3.0 * wanted[:, world.catalogue.category(items)]
    np.testing.assert_allclose(odds[0] - odds[1], expected, atol=1e-9)
    followed = world.interests_at(everyone, START)
    for user, category in zip(*np.nonzero(wanted), strict=True):
        visited = [int(world.current_interest(np.array([user]))[0])]
        round_of = followed[user].tolist()
        while len(visited) < config.interests:
            visited.append(round_of[round_of.index(visited[-1]) - 1])
        pairs = [(first, second) for age, second in enumerate(visited) for first in visited[age + 1 :]]
        assert any(tuple(world.forerunners[category]) == pair for pair in pairs)


@pytest.mark.long
def test_no_order_gets_more_clicks_than_the_best_and_the_even_is_their_mean() -> None:
    world = World(changed(SMALL, position_bias=0.7), start=START)
    slate = world.impression(1, START)
    best, even = world.best_and_random(1, slate, START, 4)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(slate.items)[:4] for _ in range(3000)]
    found = np.array([world.shown_probability(1, order, START).sum() for order in orders])
    assert found.max() <= best + 1e-9
    assert found.mean() == pytest.approx(even, rel=0.02)
    truest = slate.items[np.argsort(-world.click_probability(1, slate.items, START))[:4]]
    assert world.shown_probability(1, truest, START).sum() == pytest.approx(best)


def test_wandering_follows_the_current_interest_and_leads_to_the_next() -> None:
    world = World(changed(SMALL, noise=0.0, organic=4.0), start=START)
    one = np.array([0])
    seen = []
    for _ in range(60):
        before = int(world.current_interest(one)[0])
        behaviors = world.browse(0, START)
        seen.append(len(behaviors))
        assert len(behaviors) == 0 or int(behaviors.categories[0]) == before
        assert (behaviors.users == 0).all()
    assert np.mean(seen) == pytest.approx(4, abs=1)
    assert sum(seen) > 3 * SMALL.block, "enough for the interest to have changed"


@pytest.mark.parametrize(
    "broken",
    [
        lambda: WorldConfig(interests=100),
        lambda: WorldConfig(candidates=10_000),
        lambda: WorldConfig(from_interests=0.6, from_popular=0.6),
    ],
)
def test_a_world_that_cannot_be_is_refused(broken: Callable[[], WorldConfig]) -> None:
    with pytest.raises(ValueError, match=r"interests|candidates"):
        broken()


def test_single_numbers_of_a_world_are_changed_by_name() -> None:
    assert with_changes(SMALL, ["shift_s=30", "position_bias=0.5"]) == changed(SMALL, shift_s=30.0, position_bias=0.5)
    for wrong in ("shift=30", "shift_s=soon", "shift_s", "interests=13"):
        with pytest.raises(SettingsError, match="--world"):
            with_changes(SMALL, [wrong])


@pytest.mark.long
def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    draw(str(tmp_path))
    for name in ("world-seen.png", "world-truth.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
