"""Figures in one style: a title that says the finding, quiet axes, names at the ends of lines; PNG bytes come out."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from stream.report.plots.style import INK, QUIET, RC

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
    """Name the horizontal axis in a unit that fits an experiment of `end_s` seconds; returns the unit's seconds."""
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
    count: int, title: str, subtitle: str, *, height: float = 4.2
) -> Iterator[tuple[list["Axes"], Callable[[], bytes]]]:
    """Axes side by side under one title, and a function that returns them as PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(10, height), dpi=150)
        axes = [figure.add_subplot(1, count, place + 1) for place in range(count)]
        # Room for the title above and, on one wide picture, for the names of the lines at their ends.
        figure.subplots_adjust(
            left=0.07, right=0.86 if count == 1 else 0.94, top=1 - 0.92 / height, bottom=0.62 / height, wspace=0.22
        )
        figure.text(0.02, 1 - 0.32 / height, title, fontsize=14, fontweight="bold", color=INK)
        figure.text(0.02, 1 - 0.6 / height, subtitle, fontsize=10.5, color=QUIET)

        def save() -> bytes:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            return buffer.getvalue()

        yield axes, save
