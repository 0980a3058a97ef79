"""Checks of an experiment, as questions and answers for readers without statistics."""

import math
from collections.abc import Mapping

from stream.experiment.statistics.drift import Drift, drift
from stream.experiment.user_sums import UserSums
from stream.experiment.verdict import DRIFT_ALPHA, MIN_CLICKS, MIN_USERS, FailedCheck, Verdict
from stream.experiment.wording import signed_percent
from stream.report.formatting import p_value_words, percent
from stream.report.schema import Check

_MIN_LATE_SHARE = 0.05
"""Share of late users below which novelty cannot be told from a change over time."""


def checks(sums: UserSums, verdict: Verdict) -> list[Check]:
    """Return the checks of a verdict on these sums, the most serious first."""
    doubts: dict[str, FailedCheck] = {doubt.kind: doubt for doubt in verdict.doubts}
    return [
        _enough(doubts),
        _divided(verdict, doubts),
        _crossed(doubts),
        *_steady(verdict),
        *_novelty(sums, verdict),
    ]


def _enough(doubts: Mapping[str, FailedCheck]) -> Check:
    question = "Are there enough users and clicks?"
    if doubt := doubts.get("few"):
        return Check("enough", question, f"No: {doubt.text}.", "fatal")
    return Check("enough", question, f"Yes. Every arm has at least {MIN_USERS} users and {MIN_CLICKS} clicks.", "fine")


def _divided(verdict: Verdict, doubts: Mapping[str, FailedCheck]) -> Check:
    question, p = "Are users divided as planned?", verdict.mismatch_p
    if doubt := doubts.get("mismatch"):
        return Check("divided", question, f"No: {doubt.text}.", "fatal", p)
    said = ", ".join(f"{name} {users:,}" for name, users in verdict.users.items())
    return Check("divided", question, f"Yes: {said} users ({p_value_words(p)}).", "fine", p)


def _crossed(doubts: Mapping[str, FailedCheck]) -> Check:
    question = "Did anyone see two arms?"
    if doubt := doubts.get("crossed"):
        return Check("crossed", question, f"Yes: {doubt.text}.", "fatal" if doubt.fatal else "note")
    return Check("crossed", question, "No.", "fine")


def _steady(verdict: Verdict) -> list[Check]:
    if not verdict.pairs:
        return []
    question, pair = "Does the gain change over time?", verdict.pairs[0]
    lifts = ", then ".join(_lift(lift) for lift in pair.lifts)
    if math.isnan(pair.drift_p):
        return [Check("steady", question, "Unknown: too few clicks in one third of the time.", "unknown")]
    if pair.drift_p <= DRIFT_ALPHA:
        answer = (
            f"Yes. In the three thirds of the time {pair.arm} had {lifts} clicks against {pair.against} "
            f"({p_value_words(pair.drift_p)}). The gain above is a mean over the whole time, and may not hold later. "
            "Arms that start untrained change as they learn."
        )
        return [Check("steady", question, answer, "note", pair.drift_p)]
    answer = f"No significant change: {lifts} in the three thirds of the time ({p_value_words(pair.drift_p)})."
    return [Check("steady", question, answer, "fine", pair.drift_p)]


def _novelty(sums: UserSums, verdict: Verdict) -> list[Check]:
    if not verdict.pairs:
        return []
    question, pair = "Does the gain wear off, or grow, as users get used to it?", verdict.pairs[0]
    own: Drift = drift(sums.thirds_since_first_visit(pair.arm), sums.thirds_since_first_visit(pair.against))
    if math.isnan(own.p):
        return [Check("novelty", question, "Unknown: too few users were seen long enough.", "unknown")]
    first, last = (_lift(lift) for lift in own.lifts)
    found = f"{first} in the first third of the time since a user's first visit, {last} in the last"
    found += f" ({p_value_words(own.p)})"
    if sums.late_share < _MIN_LATE_SHARE:
        together = (
            f"Unknown: {percent(1 - sums.late_share)} of the users came in the first third, so the time since their "
            f"first visit is the experiment's time. The gain was {found}."
        )
        return [Check("novelty", question, together, "unknown", own.p)]
    if own.p <= DRIFT_ALPHA:
        return [Check("novelty", question, f"Yes: {found}.", "note", own.p)]
    return [Check("novelty", question, f"No significant change: {found}.", "fine", own.p)]


def _lift(lift: float) -> str:
    return "an unknown change of" if math.isnan(lift) else signed_percent(lift)
