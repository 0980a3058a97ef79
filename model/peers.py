"""What a learner asks of the processes that learn with it; a learner of its own asks nobody."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from model.embedding.keys import Keys
from model.embedding.learned import Gathered, Leaf, LearnedTable
from model.embedding.shards import ONLY, Rank

Tables = Mapping[str, LearnedTable]


@dataclass(frozen=True, slots=True)
class WholeStep:
    """What the batches of all ranks are together.

    Attributes:
        labels: number of labels.
        now: the newest `ts` (ms).
    """

    labels: int
    now: int


class Sums(Protocol):
    """Adds up and puts together what each rank has seen of a step; all ranks get the same, to the bit."""

    def total(self, sums: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""

    def concatenated(self, rows: Tensor) -> Tensor:
        """Return (Σn, width): the (n, width) rows of all ranks, in rank order."""


class Peers(Sums, Protocol):
    """All ranks together, as one of them sees them: every call is made by all of them, in the same order.

    Attributes:
        rank: which one this is.
    """

    rank: Rank

    def take(self, tables: Tables, keys: Mapping[str, Keys]) -> Mapping[str, Leaf]:
        """Return, for each table, the vectors of (n,) keys for one step, from the ranks that own them."""

    def collect(self, tables: Tables, taken: Mapping[str, Leaf]) -> Mapping[str, Gathered]:
        """Return, for each of the rank's own tables, what all ranks have taken of it, with the sum of their gradients.

        A gradient is None where no rank has one.
        """

    def gather(self, tables: Tables, keys: Mapping[str, Keys]) -> dict[str, Tensor]:
        """Return, for each table, the (n, dim) vectors of (n,) keys, to predict with; changes nothing."""

    def reduce(self, parameters: Iterable[nn.Parameter], checks: Tensor) -> Tensor:
        """Replace the gradients of all parameters by their sums over all ranks; returns the sum of (n,) `checks`."""


class Alone:
    """One rank: nobody is asked, nothing is copied."""

    rank = ONLY

    def total(self, sums: Tensor) -> Tensor:
        """Return `sums`."""
        return sums

    def concatenated(self, rows: Tensor) -> Tensor:
        """Return `rows`."""
        return rows

    def take(self, tables: Tables, keys: Mapping[str, Keys]) -> dict[str, Gathered]:
        """See `Peers.take`."""
        return {name: table.take(keys[name]) for name, table in tables.items()}

    def collect(self, tables: Tables, taken: Mapping[str, Leaf]) -> dict[str, Gathered]:  # noqa: ARG002
        """Return what was taken."""
        return {name: each for name, each in taken.items() if isinstance(each, Gathered)}

    def gather(self, tables: Tables, keys: Mapping[str, Keys]) -> dict[str, Tensor]:
        """See `Peers.gather`."""
        return {name: table.gather(keys[name]) for name, table in tables.items()}

    def reduce(self, parameters: Iterable[nn.Parameter], checks: Tensor) -> Tensor:  # noqa: ARG002
        """Return `checks`."""
        return checks


ALONE = Alone()
