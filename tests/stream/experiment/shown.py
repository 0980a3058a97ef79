"""Impressions of a truth, the outcomes that workers write of them, and what a plain loop counts."""

import random
from collections import defaultdict
from dataclasses import dataclass, field

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


def without_full(shown: list[Shown]) -> list[Shown]:
    """Impressions in which something was not clicked: the last of a partition would stay open for ever."""
    return [each for each in shown if len(each.clicked) < SLOTS]
