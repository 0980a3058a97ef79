"""The picture of `bench scoring`."""

from typing import Any

from stream.report.canvas import pictures
from stream.report.style import PALETTE, QUIET

_LITERAL, _FACTORED = PALETTE[1], PALETTE[0]


def draw(rows: list[dict[str, Any]], threads: int) -> bytes:
    """Return PNG: time by length at one number of candidates, and the gain at all sizes. Rows of one user only."""
    rows = [row for row in rows if row["users"] == 1]
    candidates = max(row["candidates"] for row in rows if row["candidates"] <= 100)
    chosen = [row for row in rows if row["candidates"] == candidates]
    gains = [row["times faster"] for row in chosen if row["times faster"]]
    title = f"Scoring {candidates} candidates: {min(gains):.0f} to {max(gains):.0f} times faster than the literal form"
    with pictures(2, title, f"one user, passes of SAM over the sequence, {threads} CPU threads") as (axes, save):
        _times(axes[0], chosen, candidates)
        _gains(axes[1], rows)
        return save()


def _times(axes: Any, rows: list[dict[str, Any]], candidates: int) -> None:
    for column, name, colour in (("literal ms", "literal", _LITERAL), ("factored ms", "served", _FACTORED)):
        points = [(row["length"], row[column]) for row in rows if row[column]]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o")
        at, value = points[-1]
        axes.annotate(
            name, (at, value), xytext=(-8, 8), textcoords="offset points", ha="right", color=colour, fontweight="bold"
        )
        for x, y in points:
            axes.annotate(
                f"{y:.2g}" if y < 100 else f"{y:.0f}", (x, y), xytext=(0, -16), textcoords="offset points", ha="center", color=QUIET, fontsize=9
            )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="behaviours", title=f"milliseconds, {candidates} candidates")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 1.8)
    _ticks(axes, [row["length"] for row in rows])


def _gains(axes: Any, rows: list[dict[str, Any]]) -> None:
    lengths = sorted({row["length"] for row in rows})
    for length, colour in zip(lengths, PALETTE[2:], strict=False):
        points = [(row["candidates"], row["times faster"]) for row in rows if row["length"] == length and row["times faster"]]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", label=f"{length:,}")
    axes.set(xscale="log", xlabel="candidates", title="times faster", ylim=(0, None))
    axes.legend(title="behaviours", frameon=False)
    _ticks(axes, sorted({row["candidates"] for row in rows}))


def _ticks(axes: Any, values: list[int]) -> None:
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.minorticks_off()
