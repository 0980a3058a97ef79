"""Pictures of the simulated world: `python -m stream.simulation.pictures DIRECTORY` draws those of docs/world.md."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from stream.report.plots.figure import INK, PALETTE, QUIET, pictures
from stream.simulation.config import WorldConfig
from stream.simulation.world import World, examination

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SPAN_S = 1800
_SHIFT_S = 600.0


def users_and_items(config: WorldConfig) -> bytes:
    """Draw what can be seen: a user's behaviours, the lives of items, their popularity. Returns a PNG."""
    world = World(config)
    title = "What can be seen: interests return, items die, few are popular"
    subtitle = f"{config.users} users, {config.categories} categories of {config.items_per_category} living items each"
    with pictures(3, title, subtitle, height=4.4) as (axes, save):
        _make_room(axes[0])
        _interests(axes[0], world)
        _lives(axes[1], world)
        _popularity(axes[2], world)
        return save()


def truth(config: WorldConfig) -> bytes:
    """Draw what decides the clicks: true probabilities, fashion with its shifts, looks by place. Returns a PNG."""
    shifting = World(msgspec.structs.replace(config, shift_s=_SHIFT_S))
    title = "What decides the clicks: interest, fashion, and the place on the list"
    subtitle = f"shifts every {_SHIFT_S:.0f} s and position bias are off unless they are asked for"
    with pictures(3, title, subtitle, height=4.4) as (axes, save):
        _make_room(axes[0])
        _probabilities(axes[0], World(config))
        _fashion(axes[1], shifting)
        _looks(axes[2], config)
        return save()


def _interests(axes: "Axes", world: World) -> None:
    behaviors, user = world.history(), 0
    mine = behaviors.categories[behaviors.users == user]
    behaviours = np.arange(len(mine))
    lines = world.interests[user]
    strays = ~np.isin(mine, lines)
    axes.scatter(behaviours[strays], np.full(strays.sum(), -1), s=3, color=QUIET, alpha=0.5, linewidths=0)
    for line, category in enumerate(lines.tolist()):
        here = behaviours[mine == category]
        axes.scatter(here, np.full(len(here), line), s=5, color=PALETTE[line % 7], linewidths=0)
    axes.set_yticks([-1, *range(len(lines))], ["none", *(f"{line + 1}" for line in range(len(lines)))])
    _label(axes, "One user's behaviours", "behaviour, oldest first", "of which interest")


def _lives(axes: "Axes", world: World) -> None:
    moments = np.arange(0, _SPAN_S, 5)
    standing = np.array([world.catalogue.alive(1000 * int(second))[:12] for second in moments])
    for place in range(standing.shape[1]):
        for number, item in enumerate(dict.fromkeys(standing[:, place].tolist())):
            alive = moments[standing[:, place] == item]
            colour = PALETTE[(place + 3 * number) % 7]
            axes.barh(place, alive[-1] - alive[0] + 5, left=alive[0], height=0.7, color=colour, alpha=0.85)
    axes.set_yticks([])
    axes.grid(visible=False)
    _label(axes, "Items on 12 places", "seconds", "each change: one dies, one is born")


def _popularity(axes: "Axes", world: World) -> None:
    shares = np.sort(world.catalogue.popularity)[::-1]
    axes.loglog(np.arange(1, len(shares) + 1), 100 * shares, color=PALETTE[0])
    top = 100 * shares[: len(shares) // 10].sum()
    axes.text(0.05, 0.08, f"the first tenth\ngets {top:.0f}%", transform=axes.transAxes, color=INK, fontsize=10)
    _label(axes, "Popularity", "living items, most popular first", "% of the attention")


def _probabilities(axes: "Axes", world: World) -> None:
    ts, everyone = world.start, np.arange(world.config.users)
    items = world.catalogue.alive(ts)
    probability = world.click_probability(everyone[:, None], items, ts)
    categories = world.catalogue.category(items)
    current = categories == world.current_interest(everyone, ts)[:, None]
    member = (world.interests[:, :, None] == categories).any(axis=1)
    classes = (("current", current, 1), ("dormant", member & ~current, 0), ("others", ~member, 3))
    for name, which, colour in classes:
        # In the logarithm, as the parts of the log odds are normal.
        axes.hist(
            100 * probability[which], bins=np.geomspace(0.1, 100, 60).tolist(), density=False, histtype="step", lw=2,
            weights=np.full(which.sum(), 100 / which.sum()), color=PALETTE[colour],
            label=f"{name}: {100 * probability[which].mean():.1f}%",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.set_ylim(top=1.55 * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", title="interest, mean", title_fontsize=8.5)
    axes.set_yticks([])
    _label(axes, "True click probability", "%, of all users and items", "how frequent")


def _fashion(axes: "Axes", world: World) -> None:
    seconds = np.arange(0, _SPAN_S, 2)
    fashion = np.array([world.catalogue.fashion(1000 * int(second)) for second in seconds])
    moments = [moment / 1000 for moment in world.catalogue.shifts.moments(1000 * _SPAN_S)]
    after = np.searchsorted(seconds, moments)
    jumps = abs(fashion[after] - fashion[after - 1])
    for colour, category in enumerate(jumps.argmax(axis=1).tolist()):
        line = fashion[:, category].copy()
        line[1:][abs(np.diff(line)) > 0.3] = np.nan
        axes.plot(seconds, line, color=PALETTE[colour], lw=1.8)
    for moment in moments:
        axes.axvline(moment, color=QUIET, lw=1, ls=":")
    _label(axes, f"Fashion of {len(moments)} categories", "seconds; dotted: sudden shifts", "added to the log odds")


def _looks(axes: "Axes", config: WorldConfig) -> None:
    places = np.arange(1, 11)
    for colour, bias in enumerate((0.0, 0.5, 1.0)):
        looked = examination(msgspec.structs.replace(config, position_bias=bias), 10)
        axes.plot(places, 100 * looked, color=PALETTE[colour], marker="o", ms=3.5)
        axes.annotate(f"{bias:g}", (10, 100 * looked[-1]), xytext=(6, 0), textcoords="offset points", va="center",
                      color=PALETTE[colour], fontweight="bold")  # fmt: skip
    axes.set_ylim(0, 108)
    axes.set_xticks([1, 4, 7, 10])
    _label(axes, "Looks, by position_bias", "place on the list", "% looked at")


def _make_room(axes: "Axes") -> None:
    axes.figure.subplots_adjust(top=0.76, wspace=0.3)


def _label(axes: "Axes", title: str, x: str, y: str = "") -> None:
    axes.set_title(title, fontsize=10.5, pad=8)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8.5)


def main(directory: str) -> None:
    """Write `world-seen.png` and `world-truth.png` into `directory`."""
    config = WorldConfig()
    Path(directory, "world-seen.png").write_bytes(users_and_items(config))
    Path(directory, "world-truth.png").write_bytes(truth(config))


if __name__ == "__main__":
    main(*sys.argv[1:2])
