"""Interest models: one contract, one factory."""

from model.interest.base import InterestModel
from model.interest.din import DeepInterest
from model.interest.mean import MeanPooling
from model.interest.sam import SparseAttentiveMemory
from model.spec import ModelSpec

__all__ = ["DeepInterest", "InterestModel", "MeanPooling", "SparseAttentiveMemory", "build_interest"]


def build_interest(spec: ModelSpec) -> InterestModel | None:
    """Return the interest model of `spec`, initialised from the global random state; None for the kinds without."""
    match spec.kind:
        case "sam":
            return SparseAttentiveMemory(
                spec.width,
                hidden=spec.attention_hidden,
                passes=spec.passes,
                feedback=spec.feedback,
                normalise=spec.normalise_readout,
                output=spec.output,
                enhancement=spec.enhancement,
            )
        case "din":
            return DeepInterest(spec.width, hidden=spec.attention_hidden, normalise=spec.normalise_readout)
        case "mean":
            return MeanPooling(spec.width)
        case "counts" | "popularity" | "random":
            return None
