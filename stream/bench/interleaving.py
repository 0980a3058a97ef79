"""`bench interleaving`: impressions until interleaving and A/B tests find the better of two rankings.

Both see the same visits of simulated users. The rankings count how often a candidate's category occurs among the newest
behaviours, one over more of them than the other: the value of a long history, without a model that must learn first.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from stream.bench.harness.ab_tests import ALPHA, MINIMUM_EFFECT
from stream.experiment.interleaving import interleave, preference, seeded_coin, vote
from stream.experiment.statistics.confidence_sequence import mixture_scale, p_value
from stream.experiment.statistics.effect import compare
from stream.experiment.statistics.moments import Array, Moments
from stream.experiment.verdict import has_enough_data
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, picture
from stream.simulation.config import WorldConfig
from stream.simulation.world import World, examination

SLOTS, EVERY = 10, 100
USER_EFFECT_SDS = (0.3, 1.0)
"""Standard deviation of the users' effect on the log odds of a click: as in the demo, and large."""
LENGTHS = ((1000, 50), (1000, 200), (1000, 1000))
"""Behaviours that the two rankings count; the last pair is an A/A test, whose rankings break ties differently."""


@dataclass(frozen=True, slots=True)
class Visits:
    """The same n visits under each design: user, vote on the interleaved list, clicks on each ranking's own list."""

    users: Array
    votes: Array
    clicks_a: Array
    clicks_b: Array


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Simulate worlds with a small and a large user effect, with every pair of rankings in each."""
    worlds, visits = (2, 1000) if arguments.quick else (8, 6000)
    cases = [(sd, seed) for sd in USER_EFFECT_SDS for seed in range(worlds)]
    found: dict[float, list[list[dict[str, int | None]]]] = {sd: [] for sd in USER_EFFECT_SDS}
    for sd, seed in track(cases, "worlds", console=console, transient=True):
        found[sd].append(
            [
                impressions_to_decide(each)
                for each in simulate_visits(WorldConfig(user_effect_sd=sd), visits=visits, seed=seed)
            ]
        )
    rows = [
        {"temper": sd, **summary_row(pair, [world[place] for world in found[sd]], visits)}
        for sd in USER_EFFECT_SDS
        for place, pair in enumerate(LENGTHS)
    ]
    same_ranking = [each for each in rows if each["rankings"] == _pair_name(LENGTHS[-1])]
    false_positives = max(each[f"{design} decides"] for each in same_ranking for design in ("interleaving", "A/B"))
    targets = [Target("A/A: names a ranking", false_positives, "of worlds", ALPHA)]
    note = f"{worlds} worlds a row, {visits:,} visits of 400 users to {SLOTS} items each, a look every {EVERY}"
    decided = [each for each in rows if each not in same_ranking]
    return Findings({"results": rows}, lambda: _picture(decided, visits), targets, [note])


def simulate_visits(
    config: WorldConfig, pairs: Sequence[tuple[int, int]] = LENGTHS, *, visits: int, seed: int
) -> list[Visits]:
    """Simulate visits, and return for each pair of rankings what each design observes."""
    world, rng = World(config, seed=seed), np.random.default_rng([seed, 6])
    history = world.history()
    pasts = [history.categories[history.users == user].tolist() for user in range(config.users)]
    rows = []
    for number, user in enumerate(world.visitors(visits).tolist()):
        ts = 25 * number
        pasts[user] += world.browse(user, ts).categories.tolist()
        slate = world.impression(user, ts)
        liked = rng.random(len(slate.items)) < world.click_probability(user, slate.items, ts)
        looked = rng.random(SLOTS) < examination(world.config, SLOTS)
        row = []
        for pair in pairs:
            one, other = (_ranking(pasts[user][-length:], slate.categories, config, rng) for length in pair)
            mixed = interleave(one, other, SLOTS, seeded_coin(f"{seed}-{number}"))
            clicked = {item for item, seen in zip(mixed.items, looked.tolist(), strict=True) if seen and liked[item]}
            alone = [int((liked[ranking[:SLOTS]] & looked).sum()) for ranking in (one, other)]
            row.append((user, vote(mixed, clicked), *alone))
        rows.append(row)
    return [Visits(*of_pair.T) for of_pair in np.array(rows).transpose(1, 0, 2)]


def impressions_to_decide(visits: Visits, *, alpha: float = ALPHA) -> dict[str, int | None]:
    """Return the impressions until each design names a ranking, and which one: 1 the first, −1 the second."""
    found: dict[str, int | None] = dict.fromkeys(("interleaving", "interleaving names", "A/B", "A/B names"))
    for look in range(EVERY, len(visits.users) + 1, EVERY):
        if found["interleaving"] is None:
            winner = preference(visits.users[:look], visits.votes[:look], alpha=alpha).winner
            if winner:
                found["interleaving"], found["interleaving names"] = look, 1 if winner == "a" else -1
        if found["A/B"] is None and (side := _ab_winner(visits, look, alpha)):
            found["A/B"], found["A/B names"] = look, side
    return found


def summary_row(pair: tuple[int, int], worlds: list[dict[str, int | None]], visits: int) -> dict[str, Any]:
    """Return one row: how often each design decides, after how many impressions, and how often both agree."""
    both = [each for each in worlds if each["interleaving"] and each["A/B"]]
    agreed = sum(each["interleaving names"] == each["A/B names"] for each in both)
    found: dict[str, Any] = {"rankings": _pair_name(pair)}
    for design in ("interleaving", "A/B"):
        looks = [each[design] or 2 * visits for each in worlds]
        median = float(np.median(looks))
        found[f"{design} decides"] = sum(each[design] is not None for each in worlds) / len(worlds)
        found[f"{design}, median impressions"] = median if median <= visits else None
    return found | {"both decide": len(both), "and agree": agreed}


def _pair_name(pair: tuple[int, int]) -> str:
    return f"{pair[0]} against {pair[1]}"


def _ranking(past: list[int], categories: Array, config: WorldConfig, rng: np.random.Generator) -> list[int]:
    counts = np.bincount(past, minlength=config.categories)[categories]
    ranking: list[int] = np.argsort(-(counts + rng.random(len(counts)))).tolist()
    return ranking


def _ab_winner(visits: Visits, look: int, alpha: float) -> int:
    """Return which ranking the A/B test names, each shown to half of the users: 1, −1, or 0 for none."""
    arms = []
    for remainder, clicks in ((0, visits.clicks_a), (1, visits.clicks_b)):
        mine = np.flatnonzero(visits.users[:look] % 2 == remainder)
        arms.append(Moments.of_observations(visits.users[mine], np.full(len(mine), SLOTS), clicks[mine]))
    if not (has_enough_data(arms[0]) and has_enough_data(arms[1])):
        return 0
    ratio = compare(*arms).log_ratio
    significant = p_value(ratio.value, ratio.variance, mixture_scale(float(np.log1p(MINIMUM_EFFECT)), alpha)) <= alpha
    return int(np.sign(ratio.value)) if significant else 0


def _picture(rows: list[dict[str, Any]], visits: int) -> bytes:
    title = "Impressions until interleaving and A/B tests find the better ranking"
    subtitle = f"median over worlds; a bar of {visits:,} stands for undecided until then"
    with picture(title, subtitle) as (axes, save):
        places = np.arange(len(rows))
        for offset, (design, colour) in enumerate((("interleaving", PALETTE[0]), ("A/B", PALETTE[1]))):
            heights = [each[f"{design}, median impressions"] or visits for each in rows]
            axes.bar(places + 0.38 * offset, heights, width=0.36, color=colour, label=design)
        names = [f"{each['rankings']}\nuser effect {each['temper']:g}" for each in rows]
        axes.set_xticks(places + 0.19, names)
        axes.legend(frameon=False)
        return save()
