"""Kinds that weigh every behaviour."""

from typing import ClassVar, Literal

from model.interest.options.base import Options


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
