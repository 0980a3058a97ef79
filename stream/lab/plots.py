"""The pictures of `samstream lab`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stream.experiment.wording import signed_percent
from stream.report.plots.figure import INK, PALETTE, QUIET, pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]

_BASELINES = ("popularity", "random", "oracle")


def arms_picture(arms: list[Row], answers: list[Row], paper: float) -> bytes:
    """Draw the click rate of each arm and the lifts of the comparisons, with 95% confidence intervals."""
    length = next(row for row in answers if row["question"] == "length")
    fresh = next(row for row in answers if row["question"] == "freshness")
    title = f"Length brings {signed_percent(length['lift'], 1)} clicks, freshness {signed_percent(fresh['lift'], 1)}"
    subtitle = "simulated worlds, the same users in every arm; error bars: 95% confidence intervals over users"
    with pictures(2, title, subtitle, height=5.0) as ((left, right), save):
        figure = left.figure
        figure.subplots_adjust(left=0.16, right=0.97, top=0.77, wspace=0.52)
        names = [row["arm"] for row in arms]
        places = list(range(len(arms)))[::-1]
        for place, row in zip(places, arms, strict=True):
            colour = QUIET if row["arm"] in _BASELINES else PALETTE[0]
            left.barh(place, 100 * row["CTR"], color=colour, alpha=0.85, height=0.66)
            left.plot([100 * row["CTR low"], 100 * row["CTR high"]], [place] * 2, color=INK, linewidth=1.6)
            left.text(100 * row["CTR high"] + 0.25, place, f"{100 * row['CTR']:.1f}%", va="center", fontsize=10)
        left.set_yticks(places, names)
        left.set_xlim(0, 1.2 * max(100 * row["CTR high"] for row in arms))
        left.set_title("click rate of what was shown", fontsize=11)
        bars = [(f"{row['question']}:\n{row['arm']}\nover {row['against']}", row) for row in answers]
        spots = list(range(len(bars) + 1))[::-1]
        most = max(row["lift"] for _, row in bars)
        for spot, (_, row) in zip(spots, bars, strict=False):
            low, high = 100 * row["lift low"], 100 * row["lift high"]
            right.plot([low, high], [spot] * 2, color=PALETTE[0], linewidth=3)
            right.plot(100 * row["lift"], spot, "o", color=PALETTE[0], markersize=8)
            text = f"{signed_percent(row['lift'], 1)}  [{low:.1f}, {high:.1f}]"
            near = row["lift"] < most / 2
            right.text(low if near else high, spot + 0.2, text, ha="left" if near else "right", fontsize=10)
        right.plot(100 * paper, spots[-1], "D", color=PALETTE[1], markersize=7)
        right.text(100 * paper, spots[-1] + 0.2, signed_percent(paper, 2), ha="center", fontsize=10)
        right.set_yticks(
            spots, [*(label for label, _ in bars), "for comparison: SAM in an\nonline A/B test (CIKM 2022)"]
        )
        right.set_ylim(-0.5, len(bars) + 0.6)
        right.axvline(0, color=QUIET, linewidth=1)
        span = max(100 * paper, *(100 * row["lift high"] for _, row in bars))
        right.set_xlim(min(0, *(100 * row["lift low"] for _, row in bars)) - 0.06 * span, 1.1 * span)
        right.set_title("lift of the click rate", fontsize=11)
        for axes in (left, right):
            axes.grid(axis="x")
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", labelcolor=INK, labelsize=9.5, length=0)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")
        return save()


def position_picture(tables: Mapping[str, list[Row]]) -> bytes:
    """Draw the lift of the arm that is told the places over the one that is not, by what came before."""
    told = {title: next(row for row in rows if row["arm"].endswith(", told")) for title, rows in tables.items()}
    said = " and ".join(signed_percent(row["lift"], 1) for row in told.values())
    title, subtitle = f"Knowing the places brings {said} clicks", "95% confidence intervals over users, paired"
    with pictures(1, title, subtitle, height=2.6) as ([axes], save):
        for place, row in enumerate(told.values()):
            axes.plot([100 * row["lift low"], 100 * row["lift high"]], [place] * 2, color=PALETTE[0], linewidth=3)
            axes.plot(100 * row["lift"], place, "o", color=PALETTE[0], markersize=8)
        axes.set_yticks(range(len(told)), list(told))
        axes.set_ylim(-0.6, len(told) - 0.4)
        axes.axvline(0, color=QUIET, linewidth=1)
        axes.set_xlabel("lift of the click rate, %")
        axes.figure.subplots_adjust(left=0.3)
        return save()


def freshness_picture(world: list[Row], baskets: list[Row]) -> bytes:
    """Draw the gain in clicks and in AUC over no updates, by the time between updates; points have their values.

    Without baskets, the second panel shows the AUC in the simulated world.
    """
    first = world[0]
    gain, low, high = (signed_percent(first[f"lift over never{end}"], 1) for end in ("", " low", " high"))
    title = f"Updates every {first['updates every']} bring {gain} clicks over none ({low} to {high})"
    subtitle = "by the time between two updates; bands: 95% confidence intervals over users, paired with no updates"
    with pictures(2, title, subtitle, height=4.6) as ((left, right), save):
        left.figure.subplots_adjust(top=0.74, left=0.08, right=0.97)
        _band(left, world, "lift over never", PALETTE[0], [f"{100 * row['CTR']:.2f}%" for row in world])
        left.set_title("a simulated world: lift of the click rate", fontsize=11)
        left.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g}%")
        if baskets:
            _band(right, baskets, "AUC more than never", PALETTE[2], [f"{row['AUC']:.4f}" for row in baskets])
            right.set_title("The Complete Journey: gain of AUC", fontsize=11)
            right.yaxis.set_major_formatter("{x:+.3g}")
        else:
            _band(right, world, "AUC, all", PALETTE[0], [f"{row['AUC, all']:.3f}" for row in world])
            right.set_title("the same world: AUC of all candidates", fontsize=11)
        return save()


def _band(axes: "Axes", rows: list[Row], name: str, colour: str, labels: list[str]) -> None:
    """Draw one value for each interval, evenly spaced, since the intervals grow by factors."""
    places = list(range(len(rows)))
    low, value, high = ([row[f"{name}{end}"] for row in rows] for end in (" low", "", " high"))
    axes.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(places, value, color=colour, marker="o", markersize=5)
    for place, at, label, before in zip(places, value, labels, [value[0], *value[:-1]], strict=True):
        # Where the line falls towards a point, the label stands beside the point, not on the line.
        offset, side = ((7, 5), "left") if at < before else ((0, 8), "center")
        axes.annotate(label, (place, at), xytext=offset, textcoords="offset points", ha=side, fontsize=9, color=INK)
    axes.set_xticks(places, [row["updates every"] for row in rows])
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel("time between updates")


def models_picture(figures: Mapping[str, Mapping[str, Any]], reference: str) -> bytes:
    """Draw how well each model ranks against the reference, with two standard errors, and how long a request takes."""
    ordered = sorted(figures.items(), key=lambda each: float(each[1]["ahead"]))
    best, found = ordered[-1]
    title = f"{best} ranks best: AUC {found['auc']:.4f}, {found['ms_p50']:.1f} ms a request"
    subtitle = "the same samples for all, each predicted before it is learned from; bars: 2 standard errors, paired"
    with pictures(2, title, subtitle, height=0.3 * len(ordered) + 2.0) as ((left, right), save):
        left.figure.subplots_adjust(left=0.14, right=0.97, top=0.86, wspace=0.05)
        places = range(len(ordered))
        for place, (arm, row) in zip(places, ordered, strict=True):
            colour = PALETTE[1] if arm.split(":")[0] == "sam" else PALETTE[0]
            left.errorbar(row["ahead"], place, xerr=2 * row["ahead_error"], fmt="o", color=colour, capsize=3)
            right.barh(place, row["ms_p50"], color=colour, alpha=0.85, height=0.6)
            right.text(1.08 * row["ms_p50"], place, f"{row['ms_p50']:.1f}", va="center", fontsize=9)
        left.axvline(0, color=QUIET, linewidth=1)
        left.locator_params(axis="x", nbins=5)
        left.set_yticks(places, [arm for arm, _ in ordered])
        left.set_title(f"AUC less that of {reference}", fontsize=11)
        right.set_yticks([])
        right.set_xscale("log")
        right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        right.set_xlim(right=2 * max(row["ms_p50"] for _, row in ordered))
        right.set_title("milliseconds a request (p50, one thread)", fontsize=11)
        for axes in (left, right):
            axes.set_ylim(-0.6, len(ordered) - 0.4)
            axes.grid(axis="x")
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", labelcolor=INK, labelsize=9.5, length=0)
        return save()
