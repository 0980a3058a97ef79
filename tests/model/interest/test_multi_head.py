"""Attention of several heads against plain loops."""

import math

import torch
from torch import Tensor

from model.interest.multi_head import RowAttention, TargetAttention
from tests.model.interest.drawn import drawn, randomised

LENGTHS = (5, 0, 1, 7)


def literal_head(query: Tensor, keys: Tensor, values: Tensor, additions: Tensor) -> Tensor:
    """Return the (w,) readout of one query in one head; zero without any row."""
    if not len(keys):
        return query.new_zeros(len(query))
    logits = torch.stack([query @ key / math.sqrt(len(query)) for key in keys]) + additions
    weights = logits.exp() / logits.exp().sum()
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(dim=0)


def literal_target_attention(
    attention: TargetAttention, target: Tensor, rows: Tensor, match: Tensor | None, values: Tensor | None
) -> Tensor:
    """Return the (d,) readout of one candidate from (N, d) rows."""
    normed = attention.row_norm(rows)
    read = normed if values is None else values
    query = attention.query.weight @ attention.row_norm(target)
    keys, found = normed @ attention.key.weight.T, read @ attention.value.weight.T
    w = len(query) // attention.heads
    additions = rows.new_zeros(len(rows)) if match is None else match
    heads = [
        literal_head(query[at : at + w], keys[:, at : at + w], found[:, at : at + w], additions)
        for at in range(0, len(query), w)
    ]
    out: Tensor = attention.norm(attention.out.weight @ torch.cat(heads))
    return out


def literal_row_attention(attention: RowAttention, query: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the (d,) readout of one row from (N, d) rows, with (heads, N) additions to the logits."""
    asked, keys, found = (
        x @ layer.weight.T for layer, x in ((attention.query, query), (attention.key, rows), (attention.value, rows))
    )
    w = len(asked) // attention.heads
    heads = []
    for head in range(attention.heads):
        at = slice(head * w, (head + 1) * w)
        additions = rows.new_zeros(len(rows)) if bias is None else bias[head]
        heads.append(literal_head(asked[at], keys[:, at], found[:, at], additions))
    return attention.out.weight @ torch.cat(heads)


def test_target_attention_equals_plain_loops() -> None:
    keys, mask, targets, match, _ = drawn(5, candidates=3, lengths=LENGTHS)
    values = torch.randn_like(keys)
    attention = TargetAttention(5, 2)
    randomised(attention)
    for given, read in ((match, None), (None, values), (match, values)):
        found = attention(targets, keys, mask, given, read)
        for b, length in enumerate(LENGTHS):
            for c in range(3):
                expected = literal_target_attention(
                    attention,
                    targets[b, c],
                    keys[b, :length],
                    None if given is None else given[b, c, :length],
                    None if read is None else read[b, :length],
                )
                torch.testing.assert_close(found[b, c], expected, rtol=1e-10, atol=1e-10)


def test_row_attention_equals_plain_loops() -> None:
    keys, mask, queries, _, _ = drawn(5, candidates=3, lengths=LENGTHS)
    keys, attention = keys.nan_to_num(7.0), RowAttention(5, 2).double()
    bias = torch.randn(len(LENGTHS), 2, 3, keys.shape[1], dtype=torch.float64)
    for given in (None, bias):
        found = attention(queries, keys, mask.unsqueeze(1), given)
        for b, length in enumerate(LENGTHS):
            for c in range(3):
                added = None if given is None else given[b, :, c, :length]
                expected = literal_row_attention(attention, queries[b, c], keys[b, :length], added)
                torch.testing.assert_close(found[b, c], expected, rtol=1e-10, atol=1e-10)


def test_equal_things_attract_each_other_from_the_start_at_any_scale() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 200, 32)
    attention = TargetAttention(32, 2)
    normed = attention.row_norm(rows[0])
    for scale in (0.01, 1.0, 100.0):
        queries = attention.row_norm(scale * rows[0, :20])
        logits = (queries @ attention.query.weight.T) @ (normed @ attention.key.weight.T).T
        assert (logits.argmax(dim=1) == torch.arange(20)).all()
