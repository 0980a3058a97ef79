"""The log loss of labels that may come in two steps."""

from torch import Tensor
from torch.nn import functional

from model.example import LATE_CLICK


def log_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (n,) log losses; of a late click, how much more it is than that of no click: −logit."""
    late = labels == LATE_CLICK
    losses = functional.binary_cross_entropy_with_logits(logits, labels.masked_fill(late, 0.0), reduction="none")
    return losses.where(~late, -logits) if late.any() else losses
