"""How every picture looks: colours that colour-blind readers tell apart, one font, quiet axes."""

from collections.abc import Iterable
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6000", "#000000")
"""Okabe and Ito's colours (2008), the strongest first."""

INK, QUIET, GRID = "#1c2733", "#667382", "#e4e8ec"

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
