"""What a dataset gives to a replay: visits, asked before their truth is revealed, and mere observations."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stream.errors import StreamError
from stream.schema.events import Behavior, Click, Impression


class DatasetError(StreamError):
    """A dataset is not there, or its files are not what they should be."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One impression to be asked before its truth is revealed.

    Attributes:
        impression: what to ask; its `request_id` is the same in every run, and its `slots` cover every
            candidate, so that every candidate is labelled.
        clicks: the truth, to be revealed after the score was received.
        behaviors: all that the user did in this visit, to be revealed after the clicks; never empty.
    """

    impression: Impression
    clicks: tuple[Click, ...]
    behaviors: tuple[Behavior, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """Behaviours of one user at one moment that only make history: no question is asked. Never empty."""

    behaviors: tuple[Behavior, ...]


Step = Visit | Observed


@dataclass(frozen=True, slots=True)
class Totals:
    """How much all steps of a dataset hold together.

    Attributes:
        behaviors: behaviours in visits and observations.
        visits: impressions.
        samples: candidates of all impressions.
        positives: clicks.
    """

    behaviors: int
    visits: int
    samples: int
    positives: int


class Dataset(Protocol):
    """Real data in event-time order, read and planned when it is made; its steps are the same every time.

    Attributes:
        name: how `open_dataset` knows it.
        totals: what `steps` will yield.
    """

    name: str
    totals: Totals

    def steps(self) -> Iterator[Step]:
        """Yield every visit and observation, in event-time order."""


def require(directory: Path, *names: str) -> None:
    """Check that `directory` holds these files.

    Raises:
        DatasetError: names what is missing.
    """
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise DatasetError(
            f"{directory} has no {' and no '.join(missing)}; give the folder that holds {', '.join(names)}"
        )
