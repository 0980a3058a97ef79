"""What guardrails are judged on, counted from records whose truth is known."""

from collections.abc import Callable

import numpy as np

from stream.experiment.guardrails.counts import GuardrailCounts
from stream.experiment.ledger import Ledger
from stream.experiment.serving_cost import ServingCosts
from stream.schema.events import Behavior, Candidate, Impression, Score, Spent
from stream.settings.guardrail import Guardrail
from tests.stream.experiment.shown import SLOTS, Shown, lived, told, without_full, written

HOUR_MS = 3_600_000
PURCHASE = Guardrail(metric="action", action="purchase", at_least=0.1, within_s=60)
UNANSWERED = Guardrail(metric="unanswered", at_most=0.01)


def counts_of(
    *guardrails: Guardrail, now: int = HOUR_MS, within: Callable[[int], bool] = lambda _: True
) -> GuardrailCounts:
    return GuardrailCounts(
        guardrails, ServingCosts(), within=within, arm_of=lambda user: "ab"[int(user[1:]) % 2], now=now
    )


def score(request: str, user: str, ts: int, ms: float = 1.0) -> Score:
    spent = Spent(wait=ms, state=0.0, score=0.0)
    return Score(request, user, ts, "a", 1, 1, ["x"], [0.5], [0], 1, 0, spent)


def test_slow_answers_are_those_above_the_limit_in_each_minute() -> None:
    answers = ServingCosts()
    for number in range(30):
        answers.add(score(f"r{number}", "u0", 6_000 * number, ms=float(number % 10)))
    counts = GuardrailCounts((), answers, within=lambda _: True, arm_of=str, now=0)
    assert counts.slow("a", 7.5).tolist() == [[10, 2]] * 3
    assert counts.slow("nobody", 7.5).shape == (0, 2)


def test_an_impression_without_a_score_is_unanswered_once_it_is_a_minute_old() -> None:
    counts = counts_of(UNANSWERED, within=lambda ts: ts >= 1000)
    for number in range(100):
        ask = Impression(f"r{number}", f"u{number % 4}", 1000 + 1200 * number, [Candidate("x")])
        counts.add_impression(ask)
        counts.add_impression(ask)
        if number % 10:
            counts.add_score(score(f"r{number}", f"u{number % 4}", ask.ts))
    counts.add_impression(Impression("before", "u0", 999, [Candidate("x")]))
    counts.add_impression(Impression("new", "u0", HOUR_MS - 59_999, [Candidate("x")]))
    assert counts.unanswered("a").sum(axis=0).tolist() == [50, 10]
    assert counts.unanswered("b").sum(axis=0).tolist() == [50, 0]
    counts.scores_from = 1000 + 1200 * 50
    assert counts.unanswered("a").sum(axis=0).tolist() == [25, 5]


def test_an_action_counts_once_within_its_time_after_an_impression_of_its_user() -> None:
    counts, ledger = counts_of(PURCHASE), Ledger()
    ledger.on_counted = counts.add_counted
    impressions = [
        Shown("1", "u0", "a", 10_000, []),
        Shown("2", "u0", "a", 20_000, [0]),
        Shown("1", "u2", "a", 10_000, []),
        Shown("9", "u0", "a", HOUR_MS - 59_999, []),  # its minute is not over
        Shown("9", "u4", "a", HOUR_MS - 59_999, []),
    ]
    told(ledger, written(impressions))
    for user, ts, action in (
        ("u0", 9_999, "purchase"),  # before any impression
        ("u0", 10_000, "purchase"),
        ("u0", 25_000, "purchase"),  # after two impressions, counts once
        ("u0", 80_000, "purchase"),
        ("u0", 80_001, "purchase"),  # too late
        ("u0", 30_000, "view"),
        ("u2", 70_001, "purchase"),  # too late, though u0 would have been in time
        ("u9", 30_000, "purchase"),  # was shown nothing
        ("u0", HOUR_MS - 50_000, "purchase"),
    ):
        counts.add_behavior(Behavior(user, "x", ts, action=action))
    users = ["u0", "u2", "u4", "unseen"]
    assert counts.actions(users, "purchase", 60).tolist() == [[2, 3], [1, 0]]
    assert counts.actions(["u2"], "purchase", 60).tolist() == [[1, 0]]
    assert counts.actions(["unseen"], "purchase", 60).shape == (0, 2)


def test_actions_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    impressions = without_full(lived(300))
    counts, ledger = counts_of(PURCHASE), Ledger()
    ledger.on_counted = counts.add_counted
    told(ledger, written(impressions))
    done = [(f"u{rng.integers(40)}", int(rng.integers(0, 6000))) for _ in range(500)]
    for user, ts in done:
        counts.add_behavior(Behavior(user, "x", ts, action="purchase"))
    users = sorted({each.user for each in impressions})
    times = {user: [each.ts for each in impressions if each.user == user] for user in users}
    truth = [
        [len(times[user]), sum(any(0 <= ts - at <= 200 for at in times[user]) for who, ts in done if who == user)]
        for user in users
    ]
    assert sorted(counts.actions(users, "purchase", 0.2).tolist()) == sorted(truth)


def test_predictions_are_those_of_the_items_that_count() -> None:
    impressions = without_full(lived(200))
    counts, ledger = counts_of(Guardrail(metric="calibration", at_most=1.1)), Ledger()
    ledger.on_counted = counts.add_counted
    told(ledger, written(impressions) * 2)  # everything twice counts once
    users = sorted({each.user for each in impressions})
    clicks, predicted = counts.predictions([*users, "unseen"]).sum(axis=0)
    assert clicks == sum(len(each.clicked) for each in impressions)
    assert abs(predicted - 0.2 * SLOTS * len(impressions)) < 1e-9
