"""Sparse Attentive Memory: attention passes over a long sequence, the memory of one querying the next."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from model.interest.attention import AttentionUnit, Behaviours
from model.interest.base import InterestModel, Known
from model.interest.options import Sam
from model.kernels import batch_invariant, native


class MemoryEnhancement(nn.Module):
    """Memory enhancement with the target: s ← GRU([D_j s, q], s) for j = 1, 2, 3.

    The "3P+" of SAM (Lin et al., CIKM 2022, sec. 3).

    Args:
        d: width of memory and target.
        steps: how often the target is folded in; each step has a projection D_j of its own, the GRU cell is
            shared.
    """

    def __init__(self, d: int, *, steps: int = 3) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(d, d) for _ in range(steps))
        self.cell = nn.GRUCell(2 * d, d)

    def forward(self, memory: Tensor, targets: Tensor) -> Tensor:
        """Return the enhanced (B, C, d) state of (B, C, d) memories and targets."""
        state, target = memory.flatten(0, 1), targets.flatten(0, 1)
        for project in self.projections:
            assert isinstance(project, nn.Linear)
            state = batch_invariant.gru(
                self.cell, torch.cat([batch_invariant.linear(project, state), target], dim=-1), state
            )
        return state.view_as(targets)

    def parameters_for_kernel(self) -> native.Enhancement:
        """Return the parameters as `model.kernels.native` takes them."""
        layers = [layer for layer in self.projections if isinstance(layer, nn.Linear)]
        return native.Enhancement([(layer.weight, layer.bias) for layer in layers], self.cell)


class SparseAttentiveMemory(InterestModel):
    """P passes of dual-query attention, and one GRU cell that folds each readout into the memory.

    In every pass, with the memory m starting as the target q (SAM, Lin et al., CIKM 2022, sec. 3):

        a_l = σ(w2 · σ(W1 [q − k_l, q ⊙ k_l, m − k_l, m ⊙ k_l] + b1) + b2 + match_l)
        r   = LayerNorm(Σ_l a_l k_l)
        m   ← GRU(r, m)

    W1, b1, w2, b2 and the LayerNorm are each pass's own. Sums over thousands of unnormalised weights saturate
    a GRU; the LayerNorm, which the paper does not have, keeps its input at one scale. The paper's e_p, a
    dense layer over the whole attention vector, is left out: it would fix the length.

    Args:
        d: width of keys and targets.
        options: passes P, what a pass's second query is, and what leaves the block.
    """

    batch_invariant: ClassVar[bool] = True
    skips_padding: ClassVar[bool] = True

    def __init__(self, d: int, options: Sam) -> None:
        super().__init__()
        self.d = d
        self.feedback = options.feedback
        self.output = options.output
        self.passes = options.passes
        self.attentions = nn.ModuleList(
            AttentionUnit(d, options.attention_hidden, queries=2, normalise=options.normalise_readout)
            for _ in range(1 if options.shared_attention else options.passes)
        )
        self.cell = nn.GRUCell(d, d)
        self.enhancement = MemoryEnhancement(d) if options.enhancement else None

    @property
    def width(self) -> int:
        """2d with the enhancement; otherwise 3d for "ends", (1 + 2P)d for "readouts" and Pd for "paper"."""
        if self.enhancement is not None:
            return 2 * self.d
        return self.d * {"ends": 3, "readouts": 1 + 2 * self.passes, "paper": self.passes}[self.output]

    @property
    def units(self) -> list[AttentionUnit]:
        """The attention unit of each pass."""
        units = [unit for unit in self.attentions if isinstance(unit, AttentionUnit)]
        return units * (self.passes // len(units))

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Return (B, C, width); see `InterestModel.forward`."""
        if native.usable(keys):
            return self._compiled(keys, mask, targets, match)
        behaviours = Behaviours(keys, mask, None if known is None else known.counts)
        memory = targets
        readouts, memories = [], []
        for attention in self.units:
            query = memory if self.feedback == "iter" else targets
            readout = attention(behaviours, [targets, query], match)
            memory = batch_invariant.gru(self.cell, readout.flatten(0, 1), memory.flatten(0, 1)).view_as(targets)
            readouts.append(readout)
            memories.append(memory)
        return self.assemble(targets, readouts, memories)

    def attention_weights(self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None) -> Tensor:
        """Return the (B, C, L) weights, their mean over the passes; see `InterestModel.attention_weights`."""
        memory, found = targets, []
        for attention in self.units:
            query = memory if self.feedback == "iter" else targets
            weights = attention.weights(keys, mask, [targets, query], match)
            readout = attention.norm(torch.bmm(weights, keys))
            memory = batch_invariant.gru(self.cell, readout.flatten(0, 1), memory.flatten(0, 1)).view_as(targets)
            found.append(weights)
        return torch.stack(found).mean(dim=0)

    def _compiled(self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None) -> Tensor:
        units = [unit.parameters_for_kernel() for unit in self.units]
        enhancement = self.enhancement.parameters_for_kernel() if self.enhancement is not None else None
        outputs = []
        for b, (k, m, q) in enumerate(zip(keys, mask, targets, strict=True)):
            found = native.passes(
                k, m, q, None if match is None else match[b], units,
                cell=self.cell, feedback=self.feedback == "iter", enhancement=enhancement,
            )  # fmt: skip
            if found.enhanced is not None:
                outputs.append(torch.cat([q, found.enhanced], dim=-1))
            else:
                assert found.memories is not None
                outputs.append(self.assemble(q, list(found.readouts), list(found.memories)))
        return torch.stack(outputs)

    def assemble(self, targets: Tensor, readouts: list[Tensor], memories: list[Tensor]) -> Tensor:
        """Return what leaves the block, (..., width), given every pass's (..., d) readout and memory."""
        if self.enhancement is not None:
            return torch.cat([targets, self.enhancement(memories[-1], targets)], dim=-1)
        if self.output == "paper":
            return torch.cat(memories, dim=-1)
        if self.output == "ends":
            return torch.cat([targets, readouts[0], memories[-1]], dim=-1)
        passes = [part for pair in zip(readouts, memories, strict=True) for part in pair]
        return torch.cat([targets, *passes], dim=-1)
