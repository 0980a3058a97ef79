"""The kinds of models, and what can be chosen of each: the registry. It imports no torch, so that settings need none.

Adding a kind takes a class here, its name in `Interest`, and the file that `model` names; see docs/models.md.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal, get_args

from msgspec import Struct

from model.errors import SpecError

MAX_BITS = 8
"""Of a signature that numbers a bucket: each user has 2^bits buckets a table."""


class Options(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What the network has to know of every kind.

    What is as by default is not written, so that an option that is added leaves the fingerprints of models as they are.

    Attributes:
        model: "module:class" of its interest model; empty for a kind that has none.
        attends: whether exact matches of item and category add to the logits of its attention.
        pools: whether the mean of all keys may stand beside it in the head.
    """

    model: ClassVar[str] = ""
    attends: ClassVar[bool] = False
    pools: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return str(self.__struct_config__.tag)

    @property
    def attention_dims(self) -> tuple[int, int]:
        """Widths of further embeddings of item and of category, in tables of their own; (0, 0) for none.

        Keys and targets have them behind the others: [item, category, further item, further category].
        """
        return 0, 0

    def check(self, length: int) -> None:
        """See that such a model can be built, and can read so many behaviours.

        Raises:
            SpecError: when it cannot, with what to choose instead.
        """

    def at_least(self, least: int, *names: str) -> None:
        """See that some options are no smaller than that.

        Raises:
            SpecError: when one is.
        """
        for name in names:
            if (value := getattr(self, name)) < least:
                raise SpecError(f"interest.{name} is {value}, but must be at least {least}")


class Sam(Options, frozen=True, kw_only=True, tag="sam"):
    """Sparse Attentive Memory.

    Attributes:
        passes: over the sequence.
        feedback: whether a pass's memory becomes the next pass's query ("iter", the paper's text) or the query stays
            the target ("stk", what the released code does).
        output: "ends" hands the head [q, r_1, m_P]; "readouts" [q, r_1, m_1, …, r_P, m_P]; "paper" the memories alone,
            [m_1, …, m_P].
        shared_attention: whether all passes share one attention unit, and one LayerNorm on its readout.
        enhancement: the paper's memory enhancement ("3P+"); the head then gets [q, s] and `output` is not used.
        attention_hidden: hidden width of the attention unit.
        normalise_readout: LayerNorm on the attention readout. Unnormalised sigmoid sums grow with the length: SAM does
            not learn from long histories without it.
    """

    model: ClassVar[str] = "model.interest.sam:SparseAttentiveMemory"
    attends: ClassVar[bool] = True

    passes: int = 2
    feedback: Literal["iter", "stk"] = "iter"
    output: Literal["ends", "readouts", "paper"] = "ends"
    shared_attention: bool = False
    enhancement: bool = False
    attention_hidden: int = 8
    normalise_readout: bool = True

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "passes", "attention_hidden")


class Din(Options, frozen=True, kw_only=True, tag="din"):
    """Deep Interest Network.

    Attributes:
        attention_hidden: hidden width of the attention unit.
        normalise_readout: LayerNorm on the attention readout.
    """

    model: ClassVar[str] = "model.interest.din:DeepInterest"
    attends: ClassVar[bool] = True

    attention_hidden: int = 8
    normalise_readout: bool = True

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "attention_hidden")


class Mean(Options, frozen=True, kw_only=True, tag="mean"):
    """Average pooling."""

    model: ClassVar[str] = "model.interest.mean:MeanPooling"
    pools: ClassVar[bool] = False


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


class Nrnm(Options, frozen=True, kw_only=True, tag="nrnm"):
    """Non-local Recurrent Neural Memory.

    Attributes:
        stride: behaviours of a block, after each of which the memory is renewed and refines the recurrent state.
        slots: states that are kept of a block, evenly spaced, and rows of the memory; divides `stride`.
        heads: of every attention.
    """

    model: ClassVar[str] = "model.interest.nrnm:NonLocalRecurrentMemory"
    attends: ClassVar[bool] = True

    stride: int = 20
    slots: int = 4
    heads: int = 2

    def check(self, length: int) -> None:  # noqa: D102
        self.at_least(1, "stride", "slots", "heads")
        if self.stride % self.slots:
            raise SpecError(f"interest.stride is {self.stride}, but must be a multiple of interest.slots, {self.slots}")
        if self.stride > length:
            raise SpecError(f"interest.stride is {self.stride}, but must be at most the model's length, {length}")


class Dman(Options, frozen=True, kw_only=True, tag="dman"):
    """Dynamic Memory-based Attention Network.

    Attributes:
        segment: behaviours that attend to each other and to the segment before; also how many newest ones the candidate
            sees one by one.
        slots: blocks of the memory, into which older segments are fused.
        layers: of the network; each has a memory of its own.
        heads: of every attention.
        routing: iterations in which a memory and a segment are fused.
        reconstruction: weight of the reconstruction loss, which trains the fusion alone; 0 for none.
    """

    model: ClassVar[str] = "model.interest.dman:DynamicMemoryAttention"
    attends: ClassVar[bool] = True

    segment: int = 100
    slots: int = 20
    layers: int = 1
    heads: int = 2
    routing: int = 3
    reconstruction: float = 0.1

    def check(self, length: int) -> None:  # noqa: D102
        self.at_least(1, "segment", "slots", "layers", "heads", "routing")
        self.at_least(0, "reconstruction")
        if self.segment >= length:
            raise SpecError(
                f"interest.segment is {self.segment}, but must be below the model's length, {length}: nothing would be "
                "left for the memory"
            )


class RnnSearch(Options, frozen=True, kw_only=True, tag="rnn-search"):
    """Sequential Search: a recurrent network over the newest behaviours, attention over all.

    Attributes:
        short: newest behaviours that the recurrent network reads.
        heads: of the attention.
        off_policy: learn a deterministic policy with a critic beside it, from what users did next.
        discount: of the critic: how much the next value counts.
    """

    model: ClassVar[str] = "model.interest.rnn_search:SequentialSearch"
    attends: ClassVar[bool] = True

    short: int = 50
    heads: int = 2
    off_policy: bool = False
    discount: float = 0.9

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "short", "heads")
        if not 0 <= self.discount < 1:
            raise SpecError(f"interest.discount is {self.discount}, but must be at least 0 and below 1")


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


class Dien(Options, frozen=True, kw_only=True, tag="dien"):
    """Deep Interest Evolution Network.

    Attributes:
        recent: newest behaviours that it reads, one after the other for every candidate. What lies further back reaches
            the head through the mean of the history and the matches alone.
        auxiliary: weight of the loss that has each state tell the next behaviour from one of another user; 0 for none.
    """

    model: ClassVar[str] = "model.interest.dien:DeepInterestEvolution"
    attends: ClassVar[bool] = True

    recent: int = 100
    auxiliary: float = 0.1

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "recent")
        self.at_least(0, "auxiliary")


class Sasrec(Options, frozen=True, kw_only=True, tag="sasrec"):
    """Self-attentive sequence, read by the target.

    Attributes:
        recent: newest behaviours that it reads; its cost grows with their square. What lies further back reaches the
            head through the mean of the history and the matches alone.
        blocks: of self-attention.
        heads: of every attention.
    """

    model: ClassVar[str] = "model.interest.sasrec:SelfAttentiveSequence"
    attends: ClassVar[bool] = True

    recent: int = 200
    blocks: int = 2
    heads: int = 2

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "recent", "blocks", "heads")


class Hstu(Options, frozen=True, kw_only=True, tag="hstu"):
    """Hierarchical Sequential Transduction Unit.

    Attributes:
        recent: newest behaviours that it reads; its cost grows with their square. What lies further back reaches the
            head through the mean of the history and the matches alone.
        layers: of attention. Candidates go through all of them, behaviours through all but the last.
        heads: of every attention.
    """

    model: ClassVar[str] = "model.interest.hstu:SequentialTransduction"
    attends: ClassVar[bool] = True

    recent: int = 200
    layers: int = 2
    heads: int = 2

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "recent", "layers", "heads")


class Mimn(Options, frozen=True, kw_only=True, tag="mimn"):
    """Multi-channel user Interest Memory Network.

    Attributes:
        recent: newest behaviours that it reads, one after the other, so that its time grows with them. What lies
            further back reaches the head through the mean of the history and the matches alone.
        slots: of the memory.
        utilisation: weight of the loss that has behaviours use all slots alike; 0 for none.
    """

    model: ClassVar[str] = "model.interest.mimn:InterestMemory"

    recent: int = 100
    slots: int = 4
    utilisation: float = 0.01

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "recent", "slots")
        self.at_least(0, "utilisation")


class Transact(Options, frozen=True, kw_only=True, tag="transact"):
    """TransAct: a transformer over the newest behaviours, each beside the candidate.

    Attributes:
        recent: newest behaviours that it reads; for every candidate, its cost grows with their square. The paper takes
            100. What lies further back reaches the head through the mean of the history and the matches alone.
        layers: of the transformer; the paper takes 2.
        heads: of every attention.
        hidden: width of the transformer's feed-forward layers.
        outputs: newest positions whose outputs go to the head beside the maximum over all; the paper takes 10.
    """

    model: ClassVar[str] = "model.interest.transact:RealtimeActions"
    attends: ClassVar[bool] = True

    recent: int = 50
    layers: int = 1
    heads: int = 2
    hidden: int = 32
    outputs: int = 1

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "recent", "layers", "heads", "hidden")
        self.at_least(0, "outputs")


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


class Ifa(Options, frozen=True, kw_only=True, tag="ifa"):
    """Interaction Fidelity Attention: linear attention of all candidates at once.

    Attributes:
        heads: of every attention.
        among_candidates: whether candidates attend to each other as well. A score then depends on the list that a
            candidate is in: the same item is worth something else beside others, and alone.
    """

    model: ClassVar[str] = "model.interest.ifa:InteractionFidelity"

    heads: int = 1
    among_candidates: bool = False

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "heads")


class LongVq(Options, frozen=True, kw_only=True, tag="longvq"):
    """LongVQ: attention over vector-quantised keys and a local window.

    Attributes:
        codes: of the codebook, which all users share.
        window: newest behaviours that are attended to one by one, as they are.
        commitment: weight of the loss that draws keys to their codes; 0 for none.
    """

    model: ClassVar[str] = "model.interest.longvq:QuantisedAttention"
    attends: ClassVar[bool] = True

    codes: int = 128
    window: int = 32
    commitment: float = 0.25

    def check(self, length: int) -> None:  # noqa: ARG002, D102
        self.at_least(1, "codes", "window")
        self.at_least(0, "commitment")


class Counts(Options, frozen=True, kw_only=True, tag="counts"):
    """Match features and statistics alone, no embeddings."""

    pools: ClassVar[bool] = False


class Popularity(Options, frozen=True, kw_only=True, tag="popularity"):
    """Knows nothing of the user: one learned number an item and one a category."""

    pools: ClassVar[bool] = False


class Random(Options, frozen=True, kw_only=True, tag="random"):
    """A random order; learns nothing."""

    pools: ClassVar[bool] = False


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
