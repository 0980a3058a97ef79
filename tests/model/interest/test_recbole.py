"""DIN, DIEN and SASRec against layers of RecBole on copied parameters, where it is installed (`pip install recbole`).

RecBole (Zhao et al., CIKM 2021) has these models with small differences, which are taken out here: its attention of DIN
reads [q, k, q − k, q ⊙ k], leaves the outer sigmoid out and divides by √d; DIEN's attention is that of DIN; SASRec
applies LayerNorm after adding what goes in.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from model.interest.dien import DeepInterestEvolution
from model.interest.din import DeepInterest
from model.interest.options import Dien, Din, Sasrec
from model.interest.sasrec import Block, SelfAttentiveSequence
from tests.model.interest.drawn import randomised

layers = pytest.importorskip("recbole.model.layers", reason="needs pip install recbole")

D, L = 8, 30


def linear(into: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    into.weight.data.copy_(weight)
    into.bias.data.copy_(bias)


def test_din_weighs_behaviours_as_recbole_does() -> None:
    din = DeepInterest(D, Din())
    randomised(din)
    unit = din.attention
    hidden = unit.first.out_features
    theirs = layers.SequenceAttLayer(torch.arange(L)[None], [4 * D, hidden], activation="sigmoid").double()
    [first] = [layer for layer in theirs.att_mlp_layers.modules() if isinstance(layer, nn.Linear)]
    linear(first, torch.cat([torch.zeros(hidden, 2 * D), unit.first.weight], dim=1), unit.first.bias)
    linear(theirs.dense, unit.second.weight, unit.second.bias)
    keys, targets = torch.randn(5, L, D, dtype=torch.float64), torch.randn(5, 1, D, dtype=torch.float64)
    lengths = torch.tensor([L, 1, 7, 29, 12])
    mask = torch.arange(L) < lengths[:, None]
    with torch.no_grad():
        logits = math.sqrt(D) * theirs(targets[:, 0], keys, lengths)
        weights = logits.sigmoid().masked_fill(~mask[:, None], 0.0)
        expected = torch.cat([targets, unit.norm(weights @ keys)], dim=-1)
        torch.testing.assert_close(din.attention_weights(keys, mask, targets, None), weights, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(din(keys, mask, targets), expected, rtol=1e-12, atol=1e-12)


def test_dien_moves_its_state_as_the_cell_of_recbole_does() -> None:
    dien_of_recbole = pytest.importorskip("recbole.model.sequential_recommender.dien")
    dien = DeepInterestEvolution(D, Dien(recent=L))
    randomised(dien)
    cell = dien_of_recbole.AUGRUCell(D, D).double()
    cell.load_state_dict(dien.cell.state_dict())
    keys, targets = torch.randn(1, L, D, dtype=torch.float64), torch.randn(1, 3, D, dtype=torch.float64)
    with torch.no_grad():
        states = dien.extractor(keys)[0][0]
        attention = (targets[0] @ dien.bilinear @ states.T).softmax(dim=-1)
        state = torch.zeros(3, D, dtype=torch.float64)
        for at in range(L):
            state = cell(states[at].expand(3, D), state, attention[:, at])
        found = dien(keys, torch.ones(1, L, dtype=torch.bool), targets)
    torch.testing.assert_close(found[0, :, D:], state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2])
def test_sasrec_encodes_as_the_layers_of_recbole_do(heads: int) -> None:
    model = SelfAttentiveSequence(D, Sasrec(recent=L, heads=heads))
    randomised(model)
    x = torch.randn(3, L, D, dtype=torch.float64)
    causal = torch.full((L, L), -torch.inf, dtype=torch.float64).triu(1)
    states = x
    for block in model.blocks:
        assert isinstance(block, Block)
        attention, forward = _layers_of(block)
        for layer, norm, *given in (attention, block.attention_norm, causal), (forward, block.forward_norm):
            normed = norm(states)
            states = states + layer(normed, *given) - normed  # RecBole's layers add what goes in
    torch.testing.assert_close(model.blocks(x), states, rtol=1e-12, atol=1e-12)


def _layers_of(block: Block) -> tuple[nn.Module, nn.Module]:
    """Return RecBole's attention and feed-forward layer with a block's parameters, and no LayerNorm after them."""
    attention = layers.MultiHeadAttention(block.heads, D, 0.0, 0.0, 1e-5).double()
    inner = (attention.query, attention.key, attention.value)
    for each, weight, bias in zip(
        inner, block.attention_in.weight.chunk(3), block.attention_in.bias.chunk(3), strict=True
    ):
        linear(each, weight, bias)
    linear(attention.dense, block.attention_out.weight, block.attention_out.bias)
    forward = layers.FeedForward(D, D, 0.0, "relu", 1e-5).double()
    linear(forward.dense_1, block.forward_in.weight, block.forward_in.bias)
    linear(forward.dense_2, block.forward_out.weight, block.forward_out.bias)
    attention.LayerNorm = forward.LayerNorm = nn.Identity()
    return attention, forward
