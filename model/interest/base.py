"""The contract of every interest model: embedded sequence and candidates in, one vector per candidate out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from pkgutil import resolve_name
from typing import ClassVar, Self

from torch import Tensor, nn

from model.batch import Batch
from model.interest.options import Interest
from model.losses import log_losses
from model.peers import ALONE, Sums


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of behaviours and candidates besides their embeddings, for models that search or time them.

    Attributes:
        items: (B, L) int64 item keys of the behaviours; 0 where padded.
        categories: (B, L) int64 category keys, 0 for none.
        actions: (B, L) int64 action keys, 0 for none.
        ages: (B, L) int64 in [0, 64): time from the behaviour to the request (`model.batch.gap_bucket`).
        target_items: (B, C) int64 item keys of the candidates; 0 where padded.
        target_categories: (B, C) int64 category keys, 0 for none.
        target_mask: (B, C) bool, True where there is a candidate.
    """

    items: Tensor
    categories: Tensor
    actions: Tensor
    ages: Tensor
    target_items: Tensor
    target_categories: Tensor
    target_mask: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Return what a batch knows."""
        return cls(
            batch.history_items,
            batch.history_categories,
            batch.history_actions,
            batch.gap_buckets,
            batch.target_items,
            batch.target_categories,
            batch.target_mask,
        )

    @property
    def counts(self) -> Tensor:
        """(B,) int64, how many candidates each user has."""
        return self.target_mask.sum(dim=1)

    def part(self, users: slice, length: int, candidates: int) -> "Known":
        """Return the same of some users, of the first behaviours and candidates alone."""
        parts = {}
        for field in fields(self):
            kept = candidates if field.name.startswith("target_") else length
            parts[field.name] = getattr(self, field.name)[users, :kept]
        return Known(**parts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: for models that add to the loss.

    Attributes:
        logits: (B, C) of the whole network.
        labels: (B, C).
        mask: (B, C) bool, True where there is a candidate; there is at least one.
    """

    logits: Tensor
    labels: Tensor
    mask: Tensor

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean log loss of other (B, C) logits on the same labels, a scalar."""
        return log_losses(logits[self.mask], self.labels[self.mask]).mean()

    def losses(self) -> Tensor:
        """Return the (B, C) log losses of the network itself, without gradient; 0 where padded."""
        each = self.logits.detach().new_zeros(self.mask.shape)
        each[self.mask] = log_losses(self.logits.detach()[self.mask], self.labels[self.mask])
        return each


ExtraLoss = Callable[[Outcome], Tensor]
"""Gives what a model adds to the mean log loss of a batch, a scalar, once the outcome is known."""


class InterestModel(nn.Module, ABC):
    """Reads a user's sequence for each candidate.

    Candidates do not see each other, so a batch of them equals one by one; padded positions and their content
    change nothing. An empty sequence gives a finite vector. Without gradients, on a CPU, a candidate's vector is the
    same to the bit whatever stands beside it (`model.kernels.batch_invariant`).

    Parameters are learned and published. So are buffers: state that no gradient moves, such as a codebook, which
    `observe` updates. A buffer that follows from the seed is not persistent.

    Built as `Model(d, options)`: d is the width of keys and targets.

    Attributes:
        batch_invariant: whether the bits of a user's vectors do not depend on the users beside it. Others are asked for
            one user at a time where that matters.
        skips_padding: whether padded candidates cost nothing while the compiled kernel learns (`kernels.learning`).
    """

    batch_invariant: ClassVar[bool] = False
    skips_padding: ClassVar[bool] = False

    @property
    @abstractmethod
    def width(self) -> int:
        """Width k of the vector of one candidate."""

    @abstractmethod
    def forward(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None = None, known: Known | None = None
    ) -> Tensor:
        """Return (B, C, k).

        Args:
            keys: (B, L, d) embedded behaviours, oldest first, left-aligned.
            mask: (B, L) bool, True where there is a behaviour.
            targets: (B, C, d) embedded candidates.
            match: (B, C, L) addition to the attention logits; a model without attention ignores it.
            known: of the same behaviours and candidates; a model that reads none of it ignores it.
        """

    def attention_weights(
        self,
        keys: Tensor,  # noqa: ARG002
        mask: Tensor,  # noqa: ARG002
        targets: Tensor,  # noqa: ARG002
        match: Tensor | None,  # noqa: ARG002
    ) -> Tensor | None:
        """Return the (B, C, L) weights in [0, 1] with which a candidate's vector reads each behaviour, 0 where padded.

        None for a model that has no such weights, or does not tell them.
        """
        return None

    def learn(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None, known: Known
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return what `forward` returns, and what a model adds to the loss of a step, if it adds anything."""
        return self(keys, mask, targets, match, known), None

    def observe(self, keys: Tensor, mask: Tensor, sums: Sums = ALONE) -> None:
        """Take the keys of a step that was taken into state that no gradient moves; there are no gradients.

        All ranks do so together, and `sums` gives all of them the same: their states must stay equal.
        """

    @property
    def adds_to_loss(self) -> bool:
        """Whether `learn` is the model's own."""
        return type(self).learn is not InterestModel.learn

    @property
    def observes(self) -> bool:
        """Whether `observe` is the model's own."""
        return type(self).observe is not InterestModel.observe


def build_interest(d: int, options: Interest) -> InterestModel | None:
    """Return the model of these options, initialised from the global random state; None for the kinds without.

    Args:
        d: width of keys and targets.
        options: which model, and what was chosen of it.
    """
    if not options.model:
        return None
    built = resolve_name(options.model)(d, options)
    assert isinstance(built, InterestModel)
    return built


def masked_keys(keys: Tensor, mask: Tensor) -> Tensor:
    """Return (B, L, d) keys with exact zeros where padded, so that those add nothing to any weighted sum."""
    return keys.masked_fill(~mask.unsqueeze(-1), 0.0)
