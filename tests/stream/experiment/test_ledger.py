"""The account of outcomes is that of a plain loop over the truth: whatever is repeated, split, or still open."""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from stream.experiment.ledger import Ledger
from stream.schema.events import Outcome

SLOTS = 4


@dataclass
class Shown:
    """An impression of the truth: what was shown, and which of it was clicked."""

    request: str
    user: str
    arm: str
    ts: int
    clicked: list[int]
    partition: int = 0
    probabilities: list[float] = field(default_factory=lambda: [0.2] * SLOTS)

    def outcome(self, label: int) -> Outcome:
        places = [place for place in range(SLOTS) if (place in self.clicked) == bool(label)]
        return Outcome(
            self.request, self.user, self.arm, self.ts, 1, self.ts, [f"i{place}" for place in places], places,
            [self.probabilities[place] for place in places], [label] * len(places),
        )  # fmt: skip


def lived(count: int = 400, *, seed: int = 0) -> list[Shown]:
    rng = random.Random(seed)
    return [
        Shown(
            f"r{number}", f"u{user}", "ab"[user % 2], 1000 + 10 * number,
            [place for place in range(SLOTS) if rng.random() < 0.3], partition=user % 3,
        )
        for number in range(count)
        for user in [rng.randrange(40)]
    ]  # fmt: skip


def written(shown: list[Shown], *, window: int = 300, until: int | None = None) -> list[tuple[int, Outcome]]:
    """What workers write of it in the order of time: each click at once, the rest when the window is over."""
    due = []
    for each in shown:
        for place in each.clicked:
            one = Shown(each.request, each.user, each.arm, each.ts, [place], each.partition)
            due.append((each.ts + 5 + place, each.partition, one.outcome(1)))
        if len(each.clicked) < SLOTS:
            due.append((each.ts + window, each.partition, each.outcome(0)))
    due.sort(key=lambda record: record[0])
    return [(partition, outcome) for at, partition, outcome in due if until is None or at <= until]


def told(ledger: Ledger, records: list[tuple[int, Outcome]]) -> Ledger:
    for partition, outcome in records:
        ledger.add(partition, outcome)
    return ledger


def oracle(shown: list[Shown]) -> dict[str, dict[str, tuple[int, int]]]:
    counts: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for each in shown:
        items, clicks = counts[each.arm].get(each.user, (0, 0))
        counts[each.arm][each.user] = items + SLOTS, clicks + len(each.clicked)
    return counts


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


def without_full(shown: list[Shown]) -> list[Shown]:
    """Impressions in which something was not clicked: the last of a partition would stay open for ever."""
    return [each for each in shown if len(each.clicked) < SLOTS]


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
