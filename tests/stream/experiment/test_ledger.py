"""The account of outcomes is that of a plain loop over the truth: whatever is repeated, split, or still open."""

import pytest

from stream.experiment.ledger import Ledger
from tests.stream.experiment.shown import SLOTS, Shown, lived, oracle, told, without_full, written


def check(ledger: Ledger, shown: list[Shown]) -> None:
    truth = oracle(shown)
    assert ledger.sums.arms == tuple(sorted(truth))
    for arm, users in truth.items():
        moments = ledger.sums.moments(arm)
        assert sorted(ledger.sums.users(arm)) == sorted(users)
        assert moments.total[:2].tolist() == [sum(column) for column in zip(*users.values(), strict=True)]
        assert moments.outer[0, 1] == sum(items * clicks for items, clicks in users.values())
        assert ledger.arms[arm].impressions == sum(each.arm == arm for each in shown)
        assert ledger.arms[arm].newest == (1, max(each.ts for each in shown if each.arm == arm))
    assert (ledger.first, ledger.last) == (shown[0].ts, shown[-1].ts)


def test_outcomes_add_up_to_the_truth() -> None:
    shown = without_full(lived())
    ledger = told(Ledger(), written(shown))
    check(ledger, shown)
    assert (ledger.repeated, ledger.open) == (0, 0)


def test_outcomes_that_workers_repeat_count_once() -> None:
    shown = without_full(lived())
    records = written(shown)
    again = records[:200] + records[120:500] + records[380:]
    ledger = told(Ledger(), again)
    check(ledger, shown)
    twice = records[120:200] + records[380:500]
    assert ledger.repeated == sum(len(outcome.items) for _, outcome in twice)


def test_requests_of_users_who_number_theirs_alike_count_each() -> None:
    shown = [Shown("1", f"u{number}", "ab"[number % 2], 1000, [number % SLOTS]) for number in range(40)]
    ledger = told(Ledger(), written(shown, until=1100))
    assert ledger.open == 40
    ledger = told(Ledger(), written(shown))
    check(ledger, shown)
    assert ledger.repeated == 0


def test_requests_whose_window_is_open_do_not_count_although_their_clicks_are_there() -> None:
    shown = without_full(lived())
    now = 4000
    ledger = told(Ledger(), written(shown, until=now))
    over = {each.request for each in shown if each.ts + 300 <= now}
    check(ledger, [each for each in shown if each.request in over])
    waiting = {each.request for each in shown if each.clicked and each.request not in over and each.ts <= now - 9}
    assert ledger.open == len(waiting)
    clicked = told(Ledger(), [record for record in written(shown) if 1 in record[1].labels])
    assert clicked.sums.arms == ()


def test_only_the_times_that_are_asked_for_count() -> None:
    shown = without_full(lived())
    ledger = told(Ledger(since=2000, until=3500), written(shown))
    check(ledger, [each for each in shown if 2000 <= each.ts < 3500])
    assert [ledger.within(ts) for ts in (1999, 2000, 3499, 3500)] == [False, True, True, False]


def test_what_users_did_before_is_their_covariate_and_puts_nobody_into_an_arm() -> None:
    shown = without_full(lived())
    for each in shown:
        if each.ts < 3000:
            each.arm = "old"
    ledger = told(Ledger(since=3000, before=2000), written(shown))
    during = [each for each in shown if each.ts >= 3000]
    check(ledger, during)
    for arm, users in oracle(during).items():
        earlier = [each for each in shown if 2000 <= each.ts < 3000 and each.user in users]
        assert ledger.sums.moments(arm).total[2:].tolist() == [
            SLOTS * len(earlier), sum(len(each.clicked) for each in earlier),
        ]  # fmt: skip


def test_log_loss_is_that_of_the_probabilities_as_served() -> None:
    one = Shown("r", "u", "a", 10, [1], probabilities=[0.5, 0.25, 0.5, 0.0])
    ledger = told(Ledger(), [(0, one.outcome(1)), (0, one.outcome(0))])
    assert ledger.arms["a"].loss == pytest.approx(0.6931 * 2 + 1.3863, abs=1e-3)
    assert ledger.arms["a"].shown == 4
