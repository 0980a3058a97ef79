"""The sentences of a report: headlines, how pairs of arms compare, the machine."""

import math

from stream.experiment.guardrails.words import guardrail_words
from stream.experiment.verdict import Verdict
from stream.experiment.wording import lift_words, signed_percent
from stream.report.formatting import p_value_words, percent
from stream.report.schema import ExperimentReport, Machine, ReplayReport


def headline(report: ExperimentReport) -> str:
    """Say in one sentence what came out of the experiment, and no more than the verdict allows."""
    verdict = report.verdict
    rates = ", ".join(f"{name} {percent(arm.ctr)}" for name, arm in report.arms.items() if arm.shown)
    if not rates:
        return "Nothing was shown: there is no result"
    if len(verdict.users) < 2:
        return f"Click rate: {rates}"
    if not verdict.pairs or any(doubt.fatal for doubt in verdict.doubts):
        return verdict.sentence
    first = verdict.pairs[0]
    lead = f"{verdict.winner} wins:" if verdict.winner else f"No winner yet: {first.arm} has"
    doubt = "" if first.lift.low > 0 else ", which may be chance"
    low, high = signed_percent(first.lift.low), signed_percent(first.lift.high)
    value = signed_percent(first.lift.value)
    gain = f"{lead} {value} clicks against {first.against} (any time: {low} to {high}){doubt}"
    return gain + guardrail_words(report.guardrails, verdict.winner or first.arm)


def broken_guardrail_lines(report: ExperimentReport) -> list[str]:
    """Return what breaks a guardrail and is not in the headline: other arms, or any while there is no verdict."""
    said = headline(report)
    return [
        f"{result.arm} breaks: {result.text}"
        for result in report.guardrails
        if result.state == "breaks" and result.text not in said
    ]


def pair_lines(verdict: Verdict) -> list[str]:
    """Return what the headline leaves out of more than two arms: how every pair compares."""
    if len(verdict.pairs) < 2 or any(doubt.fatal for doubt in verdict.doubts):
        return []
    doubts = ("" if pair.lift.low > 0 else ", which may be chance" for pair in verdict.pairs)
    return [
        f"{pair.arm} against {pair.against}: {lift_words(pair.lift)}{doubt}."
        for pair, doubt in zip(verdict.pairs, doubts, strict=True)
    ]


def cuped_line(verdict: Verdict) -> list[str]:
    """Say what the pre-experiment period has gained; nothing where there was none."""
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
        lines.append(f"{found.arm}: {found.sentence}; {p_value_words(found.p)}.")
        if found.agreement:
            lines.append(f"{found.agreement.sentence[0].upper()}{found.agreement.sentence[1:]}.")
    return lines


def replay_headline(report: ReplayReport) -> str:
    """Say which arm ranks best, and how the next one does."""
    ranked = sorted(
        ((arm.auc, name) for name, arm in report.arms.items() if not math.isnan(arm.auc)), key=lambda pair: -pair[0]
    )
    if not ranked:
        return "No sample was evaluated: there is no result"
    (auc, name), others = ranked[0], ranked[1:]
    behind = ", ".join(f"{other} {value:.3f}" for value, other in others)
    return f"{name} ranks best: AUC {auc:.3f}" + (f", against {behind}" if behind else "")


def machine_facts(machine: Machine) -> list[tuple[str, str]]:
    """Return the machine as (name, value) lines for the end of the page."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return [
        ("Machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:.0f} GB, scored on {machine.device}"),
        ("Software", f"Python {machine.python}" + (f", {versions}" if versions else "")),
    ]
