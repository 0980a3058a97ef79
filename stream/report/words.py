"""What a report says in words: headlines, and numbers as a reader wants them."""

import math

from stream.experiment.verdict import Pair, Verdict
from stream.report.data import DemoReport, Machine, ReplayReport


def demo_headline(report: DemoReport) -> str:
    """Say in one sentence what came out of the experiment, and no more than the verdict allows."""
    verdict = report.verdict
    rates = ", ".join(f"{name} {percent(arm.ctr)}" for name, arm in report.arms.items() if arm.shown)
    if not rates:
        return "Nothing was shown, so there is nothing to say"
    if not verdict.pairs or any(doubt.fatal for doubt in verdict.doubts):
        return f"Click rate: {rates}. {verdict.sentence}" if len(verdict.users) > 1 else f"Click rate: {rates}"
    first = verdict.pairs[0]
    best, other = report.arms[first.arm], report.arms[first.against]
    lead = f"{verdict.winner} wins" if verdict.winner else "No winner yet"
    doubt = "" if first.lift.low > 0 else ", which may be chance"
    rates = f"{first.arm} click rate {percent(best.ctr)} vs {first.against} {percent(other.ctr)}"
    return f"{lead}: {rates}, {gain(first)}{doubt}"


def verdict_lines(verdict: Verdict) -> list[str]:
    """Return what the headline leaves out: the other pairs, and what speaks against the verdict."""
    lines = []
    if not any(doubt.fatal for doubt in verdict.doubts):
        for pair in verdict.pairs if len(verdict.pairs) > 1 else []:
            doubt = "" if pair.lift.low > 0 else ", which may be chance"
            lines.append(f"{pair.arm} against {pair.against}: {gain(pair)}{doubt}.")
    return [*lines, *(f"Note: {doubt.text}." for doubt in verdict.doubts)]


def gain(pair: Pair) -> str:
    """Return a lift with its interval: +25% (any time: +18% to +32%)."""
    lift = pair.lift
    return f"{signed(lift.value)} (any time: {signed(lift.low)} to {signed(lift.high)})"


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
