"""Figures in one style: the finding as the title, labels at the ends of lines; as PNG bytes."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def label_ends(axes: "Axes", x: float, labels: list[tuple[str, str, float]]) -> None:
    """Write each line's name beside its end, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.065
    ordered = sorted((label for label in labels if np.isfinite(label[2])), key=lambda label: label[2])
    places = [y for _, _, y in ordered]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    ceiling = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    for (text, colour, _), place in zip(ordered, places, strict=True):
        axes.annotate(
            text, (x, place), xytext=(9, 0), textcoords="offset points", va="center", color=colour, fontweight="bold",
            annotation_clip=False,
        )  # fmt: skip


def time_axis(axes: "Axes", end_s: float) -> float:
    """Label the horizontal axis in a unit that fits an experiment of `end_s` seconds; returns the unit's seconds."""
    units = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
    length, unit = next(each for each in units if end_s >= 3 * each[0] or each[0] == 1)
    axes.set_xlabel(f"{unit} since the first impression")
    return float(length)


@contextmanager
def picture(title: str, subtitle: str, *, height: float = 4.4) -> Iterator[tuple["Axes", Callable[[], bytes]]]:
    """Return axes under one title, and a function that returns them as PNG. Heights in inches; the width is 10."""
    with pictures(1, title, subtitle, height=height) as (axes, save):
        yield axes[0], save


@contextmanager
def pictures(
    count: int, title: str, subtitle: str, *, height: float = 4.2, rows: int = 1
) -> Iterator[tuple[list["Axes"], Callable[[], bytes]]]:
    """Axes under one title, `count` side by side in each row, and a function that returns them as PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(10, height), dpi=150)
        axes = [figure.add_subplot(rows, count, place + 1) for place in range(rows * count)]
        # Room for the title above and, on one wide picture, for the names of the lines at their ends.
        figure.subplots_adjust(
            left=0.07, right=0.86 if count == 1 else 0.94, top=1 - 0.92 / height, bottom=0.62 / height, wspace=0.22,
            hspace=0.45,
        )  # fmt: skip
        figure.text(0.02, 1 - 0.32 / height, title, fontsize=14, fontweight="bold", color=INK)
        figure.text(0.02, 1 - 0.6 / height, subtitle, fontsize=10.5, color=QUIET)

        def save() -> bytes:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            return buffer.getvalue()

        yield axes, save


PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6000", "#000000")
"""Okabe and Ito's colours (2008), the strongest first."""


INK = "#1c2733"


QUIET = "#667382"


GRID = "#e4e8ec"


RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": "#b8c0c8",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "ytick.left": False,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def colours(arms: Iterable[str]) -> dict[str, str]:
    """Give every arm a colour, by its place."""
    return {arm: PALETTE[place % len(PALETTE)] for place, arm in enumerate(arms)}
