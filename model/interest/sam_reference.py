"""SAM's mathematics to the letter: the oracle that the factored form must equal, too slow to serve from."""

import torch
from torch import Tensor

from model.interest.attention import AttentionUnit
from model.interest.sam import SparseAttentiveMemory


def literal_sam(
    model: SparseAttentiveMemory, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None = None
) -> Tensor:
    """Return what `model` returns, computed as the paper writes it with the parameters of `model`.

    SAM, Lin et al., CIKM 2022, sec. 3. Shapes as in `InterestModel.forward`. The (B, C, L, 4d) tensor of
    features is built in full, and masked attention weights are multiplied by zero.
    """
    memory = targets
    readouts, memories = [], []
    for attention in model.units:
        query = memory if model.feedback == "iter" else targets
        readout = _literal_attention(attention, keys, mask, targets, query, match)
        memory = torch.stack([model.cell(r, m) for r, m in zip(readout, memory, strict=True)])
        readouts.append(readout)
        memories.append(memory)
    return model.assemble(targets, readouts, memories)


def _literal_attention(
    attention: AttentionUnit,
    keys: Tensor,
    mask: Tensor,
    targets: Tensor,
    query: Tensor,
    match: Tensor | None,
) -> Tensor:
    """Return the (B, C, d) readouts of one pass."""
    k = keys.unsqueeze(1)
    q = targets.unsqueeze(2)
    m = query.unsqueeze(2)
    features = torch.cat([q - k, q * k, m - k, m * k], dim=-1)
    logits = attention.second(torch.sigmoid(attention.first(features))).squeeze(-1)
    if match is not None:
        logits = logits + match
    weights = torch.sigmoid(logits) * mask.unsqueeze(1)
    readout: Tensor = attention.norm((weights.unsqueeze(-1) * k).sum(dim=2))
    return readout
