"""The steps of a data set: visits, whose candidates are scored before their clicks are known, and observations."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from stream.errors import StreamError
from stream.schema.events import Behavior, Click, Impression
from stream.schema.features import FeatureDefinition


class DatasetError(StreamError):
    """A data set is missing, or its files are malformed."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One impression, whose clicks must not be sent before it is scored.

    Attributes:
        impression: the request; its `request_id` is the same in every run, and its `slots` cover all candidates,
            so that every candidate gets a label.
        clicks: the user's clicks, to be sent after the score has arrived.
        behaviors: everything that the user did in this visit, to be sent after the clicks are labelled; never
            empty.
    """

    impression: Impression
    clicks: tuple[Click, ...]
    behaviors: tuple[Behavior, ...]


@dataclass(frozen=True, slots=True)
class Observation:
    """Behaviours of one user at one time that only extend the history; never empty."""

    behaviors: tuple[Behavior, ...]


Step = Visit | Observation


@dataclass(frozen=True, slots=True)
class DatasetTotals:
    """How much the steps of a data set contain.

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

    @classmethod
    def of(cls, steps: Iterable[Step]) -> Self:
        """Count the steps."""
        behaviors = visits = samples = positives = 0
        for step in steps:
            behaviors += len(step.behaviors)
            if isinstance(step, Visit):
                visits += 1
                samples += len(step.impression.candidates)
                positives += len(step.clicks)
        return cls(behaviors, visits, samples, positives)


class Dataset(Protocol):
    """Real data in order of event time, read when it is constructed; its steps are the same every time.

    Attributes:
        name: its name for `open_dataset`.
        totals: how much `steps` yields.
        has_exposures: whether it says what was shown and not clicked; else negatives are drawn.
        features: what its events say in `features`, by name: for `[features]`. All is known when it is sent: of an
            impression nothing that only its outcome tells.
        advised: which of them arms read unless told otherwise.
    """

    name: str
    totals: DatasetTotals
    has_exposures: bool
    features: Mapping[str, FeatureDefinition]
    advised: Sequence[str]

    def steps(self) -> Iterator[Step]:
        """Yield every visit and observation, in order of event time."""


def advised_features(dataset: Dataset) -> dict[str, FeatureDefinition]:
    """Return those of a data set's features that arms read unless told otherwise."""
    return {name: dataset.features[name] for name in dataset.advised}


def first_visits(steps: Iterable[Step], visits: int | None) -> Iterator[Step]:
    """Yield the steps up to and including visit number `visits`, counted from 1; all steps for None."""
    count = 0
    for step in steps:
        yield step
        count += isinstance(step, Visit)
        if count == visits:
            return


def require_files(directory: Path, *names: str) -> None:
    """Check that `directory` has these files.

    Raises:
        DatasetError: names the files that are missing.
    """
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise DatasetError(
            f"{directory} has no {' and no '.join(missing)}; give the folder that has {', '.join(names)}"
        )
