"""Kinds that look for the behaviours that matter to a candidate, and attend to those."""

import math
from typing import ClassVar, Literal

from model.errors import SpecError
from model.interest.options.base import Options

MAX_BITS = 8
"""Of a signature that numbers a bucket: each user has 2^bits buckets a table."""


class Sdim(Options, frozen=True, kw_only=True, tag="sdim"):
    """Sampling-based Deep Interest Modeling: behaviours in the candidate's bucket of hash tables.

    Attributes:
        hashes: tables of a user, each with hash functions of its own.
        bits: of a signature; a table has 2^bits buckets. More make fewer behaviours fall together.
    """

    model: ClassVar[str] = "model.interest.sdim:HashedInterest"

    hashes: int = 16
    bits: int = 4

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "hashes", "bits")
        if self.bits > MAX_BITS:
            raise SpecError(f"interest.bits is {self.bits}, but must be at most {MAX_BITS}: choose more hashes instead")


class Eta(Options, frozen=True, kw_only=True, tag="eta"):
    """End-to-end Target Attention: a search by signatures, attention over what was found.

    Attributes:
        bits: of a signature.
        retrieved: behaviours that the search hands to the attention.
        heads: of the attention.
    """

    model: ClassVar[str] = "model.interest.eta:EndToEndTargetAttention"
    attends: ClassVar[bool] = True

    bits: int = 32
    retrieved: int = 50
    heads: int = 2

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "bits", "retrieved", "heads")


class SimHard(Options, frozen=True, kw_only=True, tag="sim-hard"):
    """Search-based Interest Model, hard search: attention over the newest behaviours of the candidate's category.

    Attributes:
        retrieved: behaviours that the search hands to the attention.
        heads: of the attention.
    """

    model: ClassVar[str] = "model.interest.sim:HardSearch"
    attends: ClassVar[bool] = True

    retrieved: int = 50
    heads: int = 2

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "retrieved", "heads")


class SimSoft(Options, frozen=True, kw_only=True, tag="sim-soft"):
    """Search-based Interest Model, soft search: by dot product, which learns from a loss of its own.

    Attributes:
        retrieved: behaviours that the search hands to the attention.
        heads: of the attention.
        auxiliary: weight of the search's loss beside the log loss.
    """

    model: ClassVar[str] = "model.interest.sim:SoftSearch"
    attends: ClassVar[bool] = True

    retrieved: int = 50
    heads: int = 2
    auxiliary: float = 1.0

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "retrieved", "heads")
        if not 0 < self.auxiliary < math.inf:
            raise SpecError(
                f"interest.auxiliary is {self.auxiliary}, but must be above 0: the search learns by it alone"
            )


class Twin(Options, frozen=True, kw_only=True, tag="twin"):
    """Two-stage Interest Network: search and attention by the same weights.

    Attributes:
        retrieved: behaviours that the search hands to the attention.
        heads: of both.
    """

    model: ClassVar[str] = "model.interest.twin:TwoStageInterest"
    attends: ClassVar[bool] = True

    retrieved: int = 100
    heads: int = 2

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "retrieved", "heads")


class TwinV2(Options, frozen=True, kw_only=True, tag="twin-v2"):
    """TWIN-V2: attention over clusters of behaviours.

    Attributes:
        cluster_size: most behaviours of a cluster, unless they are all alike. With 1, every distinct behaviour is one.
        heads: of the attention.
    """

    model: ClassVar[str] = "model.interest.twin_v2:ClusterAttention"
    attends: ClassVar[bool] = True

    cluster_size: int = 20
    heads: int = 2

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "cluster_size", "heads")


class Dare(Options, frozen=True, kw_only=True, tag="dare"):
    """DARE: embeddings for attention apart from those that represent.

    Attributes:
        item_attention_dim: width of an item's embedding for attention.
        category_attention_dim: width of a category's.
        retrieved: behaviours with the highest logits, which alone are attended to.
        auxiliary: weight of the loss of a second head, which reads the attention to all behaviours; 0 for none.
    """

    model: ClassVar[str] = "model.interest.dare:DecoupledEmbeddings"
    attends: ClassVar[bool] = True
    pools: ClassVar[bool] = False

    item_attention_dim: int = 8
    category_attention_dim: int = 8
    retrieved: int = 50
    auxiliary: float = 1.0

    @property
    def attention_dims(self) -> tuple[int, int]:  # noqa: D102
        return self.item_attention_dim, self.category_attention_dim

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "item_attention_dim", "category_attention_dim", "retrieved")
        self.at_least(0, "auxiliary")


class Mirrn(Options, frozen=True, kw_only=True, tag="mirrn"):
    """Multi-granularity Interest Retrieval and Refinement Network.

    Attributes:
        retrieved: behaviours that each of the three queries finds.
        bits: of a hash; the more, the closer its distances are to angles.
        recent: newest behaviours whose mean is the query for short-term interest.
        filter: how the found are mixed along time: "released" has one complex weight a channel, as the released code;
            "per_frequency" one a channel and frequency.
        heads: of the attention over the three interests.
    """

    model: ClassVar[str] = "model.interest.mirrn:MultiGranularityInterest"

    retrieved: int = 16
    bits: int = 32
    recent: int = 16
    filter: Literal["released", "per_frequency"] = "released"
    heads: int = 2

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "retrieved", "bits", "recent", "heads")
