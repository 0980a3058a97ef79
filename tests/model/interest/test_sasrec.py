"""SASRec's encoder and its target attention against their equations, one position at a time."""

import math

import pytest
import torch
from torch import Tensor

from model.interest.options import Sasrec
from model.interest.sasrec import Block, SelfAttentiveSequence, TargetAttention
from tests.model.interest.drawn import Inputs, drawn, normed, randomised


def parts(x: Tensor, heads: int) -> list[Tensor]:
    return list(x.chunk(heads))


def encoded(block: Block, xs: list[Tensor]) -> list[Tensor]:
    """Return what a block makes of a user's positions."""
    rows = [block.attention_in(normed(x, block.attention_norm)).chunk(3) for x in xs]
    outputs = []
    for place, x in enumerate(xs):
        read = []
        for head in range(block.heads):
            query, keys = parts(rows[place][0], block.heads)[head], [parts(row[1], block.heads)[head] for row in rows]
            logits = torch.stack([query @ key / math.sqrt(len(query)) for key in keys[: place + 1]])
            values = [parts(row[2], block.heads)[head] for row in rows]
            read.append(
                torch.stack([w * v for w, v in zip(logits.softmax(0), values[: place + 1], strict=True)]).sum(0)
            )
        x = x + block.attention_out(torch.cat(read))
        outputs.append(x + block.forward_out(block.forward_in(normed(x, block.forward_norm)).clamp_min(0)))
    return outputs


def attended(attention: TargetAttention, xs: list[Tensor], q: Tensor, match: Tensor) -> Tensor:
    heads = []
    query = parts(attention.query.weight @ normed(q, attention.query_norm), attention.heads)
    for head in range(attention.heads):
        total = torch.zeros_like(query[head])
        if xs:
            keys = [parts(attention.key.weight @ x, attention.heads)[head] for x in xs]
            logits = torch.stack([query[head] @ key / math.sqrt(len(key)) for key in keys]) + match
            for weight, x in zip(logits.softmax(0), xs, strict=True):
                total = total + weight * parts(attention.value.weight @ x, attention.heads)[head]
        heads.append(total)
    return normed(torch.cat(heads), attention.norm)


def literal(model: SelfAttentiveSequence, inputs: Inputs) -> Tensor:
    keys, mask, targets, match, _ = inputs
    outputs = []
    for b in range(len(keys)):
        places = mask[b].nonzero()[:, 0].tolist()[-model.recent :]
        xs = [math.sqrt(model.d) * keys[b, at] + model.ranks[places[-1] - at] for at in places]
        for block in model.blocks:
            assert isinstance(block, Block)
            xs = encoded(block, xs)
        xs = [normed(x, model.norm) for x in xs]
        outputs += [
            torch.cat([q, attended(model.attention, xs, q, match[b, c, places])]) for c, q in enumerate(targets[b])
        ]
    return torch.stack(outputs).view(*targets.shape[:2], -1)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("recent", [1, 5, 9])
def test_it_computes_its_equations(heads: int, recent: int) -> None:
    model, inputs = SelfAttentiveSequence(6, Sasrec(recent=recent, heads=heads)), drawn(6)
    randomised(model)
    with torch.no_grad():
        found, expected = model(*inputs), literal(model, inputs)
    assert found.shape[-1] == model.width
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_behaviour_is_encoded_by_those_before_it_alone() -> None:
    model = SelfAttentiveSequence(6, Sasrec(recent=20))
    randomised(model)
    x = torch.randn(1, 8, 6, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5, 0] += 1.0  # not all alike: LayerNorm would not see it
    before, after = (model.blocks(each)[0] for each in (x, changed))
    torch.testing.assert_close(before[:5], after[:5], rtol=0, atol=0)
    assert not torch.isclose(before[5:], after[5:]).all(dim=-1).any()


def test_an_untrained_target_attends_to_its_own_occurrence() -> None:
    torch.manual_seed(0)
    attention = TargetAttention(32, 2)
    states, targets = torch.nn.functional.layer_norm(torch.randn(1, 50, 32), (32,)), torch.randn(1, 3, 32)
    states[0, 17] = torch.nn.functional.layer_norm(targets[0, 0], (32,))
    attention.value.weight.data.copy_(torch.eye(32))
    attention.norm = torch.nn.Identity()  # type: ignore[assignment]
    read = attention(states, torch.ones(1, 50, dtype=torch.bool), targets, None)[0]
    nearness = torch.nn.functional.cosine_similarity(read, states[0, 17], dim=-1)
    assert nearness[0] > 0.8
    assert nearness[1:].abs().max() < 0.5
