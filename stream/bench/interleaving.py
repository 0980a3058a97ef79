"""How many impressions interleaving and A/B need to tell two rankings apart, on the same visits of simulated users.

The rankings count how often a candidate's category is among the newest behaviours, one over more of them than the
other: what a long memory is worth, without a model that has to learn first.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from stream.experiment.interleaving import interleave, prefer, seeded_coin, vote
from stream.experiment.statistics.confidence_sequence import mixture_scale, p_value
from stream.experiment.statistics.effect import compare
from stream.experiment.statistics.moments import Array, Moments
from stream.experiment.verdict import MINIMUM_EFFECT, has_enough_data
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, picture
from stream.simulation.config import WorldConfig
from stream.simulation.world import World

ALPHA, SLOTS, EVERY = 0.05, 10, 100
TEMPERS = (0.3, 1.0)
"""How much users differ in how much they click: as in the demo, and much."""
LENGTHS = ((1000, 50), (1000, 200), (1000, 1000))
"""Behaviours that the two rankings look at; the last is A against A, with another lot among equal counts."""


@dataclass(frozen=True, slots=True)
class Visits:
    """The same visits under each design, (n,) each: user, vote on the interleaved list, clicks on either's own list."""

    users: Array
    votes: Array
    clicks_a: Array
    clicks_b: Array


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Simulate worlds whose users differ little and much, with every pair of rankings in each."""
    worlds, visits = (2, 1000) if arguments.quick else (8, 6000)
    cases = [(temper, seed) for temper in TEMPERS for seed in range(worlds)]
    found: dict[float, list[list[dict[str, int | None]]]] = {temper: [] for temper in TEMPERS}
    for temper, seed in track(cases, "worlds", console=console, transient=True):
        found[temper].append(
            [needed(each) for each in visit(WorldConfig(user_effect_sd=temper), visits=visits, seed=seed)]
        )
    rows = [
        {"temper": temper, **row(pair, [world[place] for world in found[temper]], visits)}
        for temper in TEMPERS
        for place, pair in enumerate(LENGTHS)
    ]
    alike = [each for each in rows if each["rankings"] == _name(LENGTHS[-1])]
    alarms = max(each[f"{design} decides"] for each in alike for design in ("interleaving", "A/B"))
    targets = [Target("A/A: names a ranking", alarms, "of worlds", ALPHA)]
    note = f"{worlds} worlds a row, {visits:,} visits of 400 users to {SLOTS} items each, a look every {EVERY}"
    return Findings(rows, targets, lambda: _bars([each for each in rows if each not in alike], visits), [note])


def visit(config: WorldConfig, pairs: Sequence[tuple[int, int]] = LENGTHS, *, visits: int, seed: int) -> list[Visits]:
    """Let users of a world visit, and see what each design would have been told of each pair of rankings."""
    world, rng = World(config, seed=seed), np.random.default_rng([seed, 6])
    history = world.history()
    pasts = [history.categories[history.users == user].tolist() for user in range(config.users)]
    rows = []
    for number, user in enumerate(world.visitors(visits).tolist()):
        ts = 25 * number
        pasts[user] += world.browse(user, ts).categories.tolist()
        slate = world.impression(user, ts)
        liked = rng.random(len(slate.items)) < world.click_probability(user, slate.items, ts)
        looked = rng.random(SLOTS) < world.examination(SLOTS)
        row = []
        for pair in pairs:
            one, other = (_ranking(pasts[user][-length:], slate.categories, config, rng) for length in pair)
            mixed = interleave(one, other, SLOTS, seeded_coin(f"{seed}-{number}"))
            clicked = {item for item, seen in zip(mixed.items, looked.tolist(), strict=True) if seen and liked[item]}
            alone = [int((liked[ranking[:SLOTS]] & looked).sum()) for ranking in (one, other)]
            row.append((user, vote(mixed, clicked), *alone))
        rows.append(row)
    return [Visits(*of_pair.T) for of_pair in np.array(rows).transpose(1, 0, 2)]


def needed(visits: Visits, *, alpha: float = ALPHA) -> dict[str, int | None]:
    """Return after how many impressions each design first names a ranking, and which: 1 the first, −1 the second."""
    found: dict[str, int | None] = dict.fromkeys(("interleaving", "interleaving names", "A/B", "A/B names"))
    for look in range(EVERY, len(visits.users) + 1, EVERY):
        if found["interleaving"] is None:
            winner = prefer(visits.users[:look], visits.votes[:look], alpha=alpha).winner
            if winner:
                found["interleaving"], found["interleaving names"] = look, 1 if winner == "a" else -1
        if found["A/B"] is None and (side := _ab(visits, look, alpha)):
            found["A/B"], found["A/B names"] = look, side
    return found


def row(pair: tuple[int, int], worlds: list[dict[str, int | None]], visits: int) -> dict[str, Any]:
    """Return one row of the table: how often each design decides, after how many impressions, and how often alike."""
    both = [each for each in worlds if each["interleaving"] and each["A/B"]]
    alike = sum(each["interleaving names"] == each["A/B names"] for each in both)
    found: dict[str, Any] = {"rankings": _name(pair)}
    for design in ("interleaving", "A/B"):
        looks = [each[design] or 2 * visits for each in worlds]
        median = float(np.median(looks))
        found[f"{design} decides"] = sum(each[design] is not None for each in worlds) / len(worlds)
        found[f"{design}, median impressions"] = median if median <= visits else None
    return found | {"both decide": len(both), "and agree": alike}


def _name(pair: tuple[int, int]) -> str:
    return f"{pair[0]} against {pair[1]}"


def _ranking(past: list[int], categories: Array, config: WorldConfig, rng: np.random.Generator) -> list[int]:
    counts = np.bincount(past, minlength=config.categories)[categories]
    ranking: list[int] = np.argsort(-(counts + rng.random(len(counts)))).tolist()
    return ranking


def _ab(visits: Visits, look: int, alpha: float) -> int:
    """Which ranking A/B names, half of the users seeing each: 1, −1, or 0 for none."""
    arms = []
    for remainder, clicks in ((0, visits.clicks_a), (1, visits.clicks_b)):
        mine = np.flatnonzero(visits.users[:look] % 2 == remainder)
        arms.append(Moments.of_observations(visits.users[mine], np.full(len(mine), SLOTS), clicks[mine]))
    if not (has_enough_data(arms[0]) and has_enough_data(arms[1])):
        return 0
    ratio = compare(*arms).log_ratio
    sure = p_value(ratio.value, ratio.variance, mixture_scale(float(np.log1p(MINIMUM_EFFECT)), alpha)) <= alpha
    return int(np.sign(ratio.value)) if sure else 0


def _bars(rows: list[dict[str, Any]], visits: int) -> bytes:
    title = "How soon interleaving, and how soon A/B, tells two rankings apart"
    subtitle = f"impressions, median over worlds; a bar that reaches {visits:,} stands for undecided until then"
    with picture(title, subtitle) as (axes, save):
        places = np.arange(len(rows))
        for offset, (design, colour) in enumerate((("interleaving", PALETTE[0]), ("A/B", PALETTE[1]))):
            heights = [each[f"{design}, median impressions"] or visits for each in rows]
            axes.bar(places + 0.38 * offset, heights, width=0.36, color=colour, label=design)
        names = [f"{each['rankings']}\ntemper {each['temper']:g}" for each in rows]
        axes.set_xticks(places + 0.19, names)
        axes.legend(frameon=False)
        return save()
