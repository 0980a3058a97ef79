"""What a report says in words: headlines, and numbers as a reader wants them."""

import math

from stream.experiment.verdict import Pair, Verdict
from stream.report.schema import ExperimentReport, Machine, ReplayReport
from stream.settings import ArmSettings


def headline(report: ExperimentReport) -> str:
    """Say in one sentence what came out of the experiment, and no more than the verdict allows."""
    verdict = report.verdict
    rates = ", ".join(f"{name} {percent(arm.ctr)}" for name, arm in report.arms.items() if arm.shown)
    if not rates:
        return "Nothing was shown, so there is nothing to say"
    if len(verdict.users) < 2:
        return f"Click rate: {rates}"
    if not verdict.pairs or any(doubt.fatal for doubt in verdict.doubts):
        return verdict.sentence
    first = verdict.pairs[0]
    lead = f"{verdict.winner} wins:" if verdict.winner else f"No winner yet: {first.arm} has"
    doubt = "" if first.lift.low > 0 else ", which may be chance"
    low, high = signed(first.lift.low), signed(first.lift.high)
    return f"{lead} {signed(first.lift.value)} clicks against {first.against} (any time: {low} to {high}){doubt}"


def pair_lines(verdict: Verdict) -> list[str]:
    """Return what the headline leaves out of more than two arms: how every pair compares."""
    if len(verdict.pairs) < 2 or any(doubt.fatal for doubt in verdict.doubts):
        return []
    doubts = ("" if pair.lift.low > 0 else ", which may be chance" for pair in verdict.pairs)
    return [
        f"{pair.arm} against {pair.against}: {gain(pair)}{doubt}."
        for pair, doubt in zip(verdict.pairs, doubts, strict=True)
    ]


def before_line(verdict: Verdict) -> list[str]:
    """Say what the users' time before the experiment was good for; nothing where there was none."""
    if not verdict.pairs or not verdict.pairs[0].variance_left < 1:
        return []
    left = verdict.pairs[0].variance_left
    return [
        "The gain is corrected by how much each arm's users clicked before the experiment (CUPED), so it may differ a "
        f"little from the ratio of the click rates. This was worth {1 / left:.2g} times the users."
    ]


def interleaving_lines(report: ExperimentReport) -> list[str]:
    """Return what each interleaved arm says, with its p-value, and whether A/B says the same."""
    lines = []
    for found in report.interleaving:
        lines.append(f"{found.arm}: {found.sentence}; {p_value(found.p)}.")
        if found.agreement:
            lines.append(f"{found.agreement.sentence[0].upper()}{found.agreement.sentence[1:]}.")
    return lines


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


def model_words(arm: ArmSettings) -> str:
    """Return an arm's model: its preset, and what it changes of it other than the length."""
    changed = ", ".join(f"{key} {value}" for key, value in arm.model.items() if key != "length")
    return f"{arm.preset} with {changed}" if changed else arm.preset


def learning_words(arm: ArmSettings) -> str:
    """Return whom an arm learns from."""
    return {"own": "from its own users", "all": "from all users"}[arm.learn_from] if arm.learn else "no"


def span_words(seconds: float) -> str:
    """Return a length of time in the largest unit of which there are at least two."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}".replace(".0 ", " ")
    return f"{seconds:.0f} seconds"


def p_value(p: float) -> str:
    """Return a p-value, no finer than it is worth."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}%"


def signed(value: float) -> str:
    """Return a relative change as a signed percentage."""
    return f"{100 * value:+.0f}%".replace("-", "−").replace("inf", "∞")


def number(value: float, digits: int = 0) -> str:
    """Return a number with thousands apart; a dash when there is none."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
