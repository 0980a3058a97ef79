"""The kinds of models, and what can be chosen of each: the registry. It imports no torch, so that settings need none.

Adding a kind takes a class in the file of its family, its name in `Interest`, and the file that `model` names; see
docs/models.md. `Sar` stands here, since it can hold any other kind.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, get_args

from model.errors import SpecError
from model.interest.options.base import Options
from model.interest.options.baselines import Counts, Popularity, Random
from model.interest.options.pooling import Din, Ifa, LongVq, Mean, Sam
from model.interest.options.search import Dare, Eta, Mirrn, Sdim, SimHard, SimSoft, Twin, TwinV2
from model.interest.options.sequential import Dien, Dman, Hstu, Mimn, Nrnm, RnnSearch, Sasrec, Transact

__all__ = [
    "KINDS",
    "Counts",
    "Dare",
    "Dien",
    "Din",
    "Dman",
    "Eta",
    "Hstu",
    "Ifa",
    "Interest",
    "LongVq",
    "Mean",
    "Mimn",
    "Mirrn",
    "Nrnm",
    "Options",
    "Popularity",
    "Random",
    "RnnSearch",
    "Sam",
    "Sar",
    "Sasrec",
    "Sdim",
    "SimHard",
    "SimSoft",
    "Transact",
    "Twin",
    "TwinV2",
]


class Sar(Options, frozen=True, kw_only=True, tag="sar"):
    """Sequence adaptation: a policy chooses how many behaviours of a user another model reads.

    Attributes:
        inner: the model that reads them, with its options; any kind that reads a sequence, but for `sar`.
        lengths: that can be chosen, ascending.
        window: newest behaviours that the policy looks at.
        heads: of the policy's attention.
        cost: what reading the longest of them costs, in log loss; shorter ones cost in proportion.
    """

    model: ClassVar[str] = "model.interest.sar:SequenceAdaptation"

    inner: "Interest" = Sam()
    lengths: tuple[int, ...] = (50, 100, 200, 500, 1000)
    window: int = 50
    heads: int = 2
    cost: float = 0.01

    @property
    def attends(self) -> bool:  # type: ignore[override]  # of the others, the class says so
        """Whether the inner model does."""
        return self.inner.attends

    @property
    def attention_dims(self) -> tuple[int, int]:
        """Those of the inner model."""
        return self.inner.attention_dims

    def check(self, length: int) -> None:  # noqa: D102
        self.at_least(1, "window", "heads")
        self.at_least(0, "cost")
        if not self.inner.model or isinstance(self.inner, Sar):
            possible = ", ".join(name for name, kind in KINDS.items() if kind.model and kind is not Sar)
            raise SpecError(f"interest.inner is of kind {self.inner.kind!r}, but must be one of {possible}")
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 1:
            raise SpecError(f"interest.lengths are {self.lengths}, but must be ascending, and at least 1")
        if self.lengths[-1] > length:
            raise SpecError(f"interest.lengths are {self.lengths}, but must not exceed the model's length, {length}")
        self.inner.check(self.lengths[-1])


Interest = (  # fmt: skip
    Sam
    | Din
    | Mean
    | Sdim
    | Eta
    | SimHard
    | SimSoft
    | Twin
    | TwinV2
    | Dare
    | Mirrn
    | Ifa
    | LongVq
    | Nrnm
    | Dman
    | RnnSearch
    | Sar
    | Dien
    | Sasrec
    | Hstu
    | Mimn
    | Transact
    | Counts
    | Popularity
    | Random
)
"""Every kind. In settings, `kind` tells which one is meant."""

KINDS: Mapping[str, type[Interest]] = MappingProxyType(
    {str(kind.__struct_config__.tag): kind for kind in get_args(Interest)}
)
"""Name → options of every kind."""
