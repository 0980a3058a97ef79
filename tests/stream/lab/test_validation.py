"""Progressive validation: nothing of a basket leaks into its own scores, and scorers follow at their intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from model.metrics import auc
from stream.datasets.base import DatasetTotals, Visit
from stream.experiment.statistics.auc import clustered_auc
from stream.lab.freshness import NEVER, basket_rows
from stream.lab.validation import WARM_UP, ProgressiveValidation
from stream.schema.events import Behavior, Candidate, Click, Impression
from stream.schema.features import FeatureDefinition

HOUR_S = 3600
START = 1_700_000_000_000


@dataclass
class Baskets:
    """Visits a quarter of an hour apart, of five candidates each; `bought` says which of them, by hour."""

    visits: int
    turns: bool = False
    name: str = "baskets"
    has_exposures: bool = False
    totals: DatasetTotals = field(init=False)
    features: Mapping[str, FeatureDefinition] = field(default_factory=dict)
    advised: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.totals = DatasetTotals(self.visits, self.visits, 5 * self.visits, self.visits)

    def steps(self) -> Iterator[Visit]:
        rng = np.random.default_rng(0)
        for visit in range(self.visits):
            ts, user = START + visit * 900_000, f"u{visit % 7}"
            later = visit >= WARM_UP * self.visits
            # What is bought: without turns anything, after them always the same item, unknown until then.
            chosen = 4 if self.turns and later else int(rng.integers(4 if self.turns else 5))
            candidates = [Candidate(f"i{place}", f"c{place}") for place in rng.permutation(5).tolist()]
            request = Impression(f"r{visit}", user, ts, candidates, slots=5)
            item = f"i{chosen}"
            yield Visit(
                request, (Click(f"r{visit}", user, item, ts),), (Behavior(user, item, ts, f"c{chosen}", "buy"),)
            )


def intervals(*names: str) -> dict[str, float | None]:
    return {name: {"hour": HOUR_S, "hour again": HOUR_S, "day": 24 * HOUR_S, NEVER: None}[name] for name in names}


@pytest.mark.long
def test_random_purchases_cannot_be_predicted() -> None:
    """A basket that leaked into its own scores, as history or as a training example, would be predictable."""
    found = ProgressiveValidation("counts-50", intervals("hour", NEVER), Baskets(1400))(lambda _: None)
    assert len(found.labels) == 5 * 1050
    for scores in found.scores.values():
        chance = clustered_auc(found.labels, scores, found.users)
        assert chance.low < 0.5 < chance.high


@pytest.mark.long
def test_an_update_brings_what_was_learned_and_none_brings_nothing() -> None:
    found = ProgressiveValidation("mean-50", intervals("hour", "hour again", "day", NEVER), Baskets(240, turns=True))(
        lambda _: None
    )
    early = slice(0, 5 * 4 * 20)  # twenty hours, within the first day
    hour, day, never = (found.scores[name] for name in ("hour", "day", NEVER))
    assert np.array_equal(day[early], never[early]), "before its first update a scorer has its first parameters"
    assert not np.array_equal(day, never)
    assert auc(found.labels[early], hour[early]) > auc(found.labels[early], never[early]) + 0.05
    assert np.array_equal(hour, found.scores["hour again"]), "by deltas or by bases, the parameters are the same"
    rows = {row["updates every"]: row for row in basket_rows(found)}
    assert rows["hour"]["AUC more than never low"] > 0
    assert rows[NEVER]["AUC more than never"] == 0
    assert rows["day"]["AUC"] == pytest.approx(auc(found.labels, day))
