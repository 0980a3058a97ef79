"""The attention on a CPU in torch without gradients: a candidate's readout is the same to the bit in every list.

Each user is attended to by itself, at its own length; see `batch_invariant` for how a product and a function do not
depend on place.
"""

import torch
from torch import Tensor

from model.kernels import batch_invariant

HIDDEN = 131_072
"""Numbers of a hidden layer at a time, so that it stays in the cache."""


class BatchInvariantBehaviours:
    """The behaviours of B users, ready for all passes.

    Args:
        keys: (B, L, d) float32, zero where masked.
        ends: of each user, how many behaviours are read.
    """

    def __init__(self, keys: Tensor, ends: list[int]) -> None:
        self._ends = ends
        d = keys.shape[2]
        self._columns, self._rows = [], []
        for user, end in zip(keys, ends, strict=True):
            # Zeros up to whole vectors: they add nothing to a readout.
            own = user.new_zeros(batch_invariant.padded_size(max(end, 1)), d)
            own[:end] = user[:end]
            self._columns.append(batch_invariant.on_grid(own, 1, d).T)
            self._rows.append(batch_invariant.on_grid(own, 0, len(own)))

    def readouts(self, first: Tensor, second: Tensor, bias: Tensor, match: Tensor | None) -> Tensor:
        """Return the (B, C, d) sums of behaviours by attention weight.

        Args:
            first: (B, h, C, d + 1) effective weights of layer 1, the bias last.
            second: (1, h) weights of layer 2.
            bias: (1,) of layer 2.
            match: (B, C, L) addition to the attention logits.
        """
        B, h, C, width = first.shape
        out = first.new_empty(B, C, width - 1)
        weights, offsets = batch_invariant.on_grid(first[..., :-1], 3, width - 1), first[..., -1:]
        scales, constant = second.view(-1).tolist(), bias.item()
        for b, (end, columns, keys) in enumerate(zip(self._ends, self._columns, self._rows, strict=True)):
            span = len(keys)
            step = max(1, HIDDEN // (h * span))
            for start in range(0, C, step):
                c = slice(start, min(start + step, C))
                count = c.stop - start
                hidden = torch.mm(weights[b, :, c].reshape(h * count, -1), columns).float().view(h, count, span)
                batch_invariant.sigmoid_(hidden.add_(offsets[b, :, c]))
                logits = hidden.new_full((count, span), constant)
                if match is not None:
                    logits[:, :end] += match[b, c, :end]
                for scale, unit in zip(scales, hidden, strict=True):
                    logits.add_(unit, alpha=scale)
                out[b, c] = torch.mm(batch_invariant.on_grid(batch_invariant.sigmoid_(logits), 1, span), keys)
        return out
