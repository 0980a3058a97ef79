"""What a report says in words: headlines, and numbers as a reader wants them."""

import math

from stream.report.data import Comparison, DemoReport, Machine, ReplayReport


def demo_headline(report: DemoReport) -> str:
    """Say in one sentence what came out of the experiment, and no more than the intervals allow."""
    if not report.comparisons:
        rates = ", ".join(f"{name} {percent(arm.ctr)}" for name, arm in report.arms.items() if arm.shown)
        return f"Click rate: {rates}" if rates else "Nothing was shown, so there is nothing to say"
    first = report.comparisons[0]
    best, other = report.arms[first.arm], report.arms[first.against]
    rates = f"{first.arm} click rate {percent(best.ctr)} vs {first.against} {percent(other.ctr)}"
    return f"{rates}: {gain(first)}" + ("" if first.low > 0 else ", which may be chance")


def comparison_line(comparison: Comparison) -> str:
    """Say how far apart two arms are."""
    doubt = "" if comparison.low > 0 else ", which may be chance"
    return f"{comparison.arm} against {comparison.against}: {gain(comparison)}{doubt}."


def gain(comparison: Comparison) -> str:
    """Return a lift with its interval: +25% (95% interval +21% to +29%)."""
    if math.isnan(comparison.low):
        return f"{signed(comparison.lift)} (too few users for an interval)"
    return f"{signed(comparison.lift)} (95% interval {signed(comparison.low)} to {signed(comparison.high)})"


def replay_headline(report: ReplayReport) -> str:
    """Say which arm ranks best, and how the next one does."""
    ranked = sorted(
        ((arm.auc, name) for name, arm in report.arms.items() if not math.isnan(arm.auc)), key=lambda pair: -pair[0]
    )
    if not ranked:
        return "Nothing was judged, so there is nothing to say"
    (auc, name), others = ranked[0], ranked[1:]
    behind = ", ".join(f"{other} {value:.3f}" for value, other in others)
    return f"{name} ranks best: AUC {auc:.3f}" + (f", against {behind}" if behind else "")


def machine_facts(machine: Machine) -> list[tuple[str, str]]:
    """Return the machine as lines for the small print."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return [
        ("Machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:.0f} GB, scored on {machine.device}"),
        ("Software", f"Python {machine.python}" + (f", {versions}" if versions else "")),
    ]


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}%"


def signed(value: float) -> str:
    """Return a relative change as a signed percentage."""
    return f"{100 * value:+.0f}%".replace("-", "−")


def number(value: float, digits: int = 0) -> str:
    """Return a number with thousands apart; a dash when there is none."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
