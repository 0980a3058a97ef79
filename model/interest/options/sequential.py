"""Kinds that read behaviours in their order: recurrent ones, those with a memory, transformers."""

from typing import ClassVar

from model.errors import SpecError
from model.interest.options.base import Options


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
