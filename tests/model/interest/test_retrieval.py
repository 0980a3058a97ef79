"""Search and the attention over what it found, against their literal forms."""

import math
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.interest.retrieval import Found, RetrievedAttention, normed_rows
from tests.model.interest.drawn import drawn, normed, randomised


def best(scores: list[float], places: Iterable[int], count: int) -> list[int]:
    """Return the places of the highest scores, of equal ones the newest first."""
    return sorted(places, key=lambda place: (-scores[place], -place))[:count]


def unit(x: Tensor) -> Tensor:
    """Return the LayerNorm without parameters."""
    return normed(x, torch.nn.LayerNorm(len(x), dtype=x.dtype))


@torch.no_grad()
def literal_attention(model: RetrievedAttention, target: Tensor, keys: list[Tensor], match: list[Tensor]) -> Tensor:
    """Return the (d,) readout of one candidate, from the equation."""
    width = len(model.query.weight) // model.heads
    read = []
    for head in range(model.heads):
        own = slice(head * width, (head + 1) * width)
        query = model.query.weight[own] @ unit(target)
        logits = [
            float(query @ (model.key.weight[own] @ unit(key)) / math.sqrt(width) + bonus)
            for key, bonus in zip(keys, match, strict=True)
        ]
        total = sum(math.exp(logit) for logit in logits)
        read.append(
            sum(
                (math.exp(a) / total * unit(key) for a, key in zip(logits, keys, strict=True)), torch.zeros_like(target)
            )
        )
    return normed(model.out.weight @ torch.cat(read), model.norm)


@given(
    scores=st.lists(st.sampled_from([-math.inf, -2.0, -1.5, -0.0, 0.0, 1e-40, 0.25, 3.0, math.inf]), min_size=1),
    wanted=st.integers(0, 2**16),
    count=st.integers(1, 12),
)
@settings(max_examples=200)
def test_the_highest_are_found_and_of_equals_the_newest(scores: list[float], wanted: int, count: int) -> None:
    places = [place for place in range(len(scores)) if wanted >> place % 16 & 1]
    mask = torch.zeros(1, 1, len(scores), dtype=torch.bool)
    mask[..., places] = True
    found = Found.highest(torch.tensor([[scores]]), mask, count)
    assert found.there.sum() == min(count, len(places))
    assert found.places[found.there].tolist() == best(scores, places, count)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("retrieved", [1, 3, 20])
def test_attention_equals_its_literal_form(heads: int, retrieved: int) -> None:
    keys, mask, targets, match, _ = drawn()
    model = RetrievedAttention(6, heads)
    randomised(model)
    scores = torch.sin(3 * match)
    found = Found.highest(scores, mask.unsqueeze(1), retrieved)
    readout = model(targets, normed_rows(keys, mask), found, match)
    without = model(targets, normed_rows(keys, mask), found, None)
    for b, c in [(b, c) for b in range(len(mask)) for c in range(targets.shape[1])]:
        places = best(scores[b, c].float().tolist(), range(int(mask[b].sum())), retrieved)
        read = [keys[b, place] for place in places]
        expected = literal_attention(model, targets[b, c], read, [match[b, c, place] for place in places])
        torch.testing.assert_close(readout[b, c], expected)
        torch.testing.assert_close(
            without[b, c], literal_attention(model, targets[b, c], read, [torch.zeros(())] * len(places))
        )


def test_at_the_start_equal_things_attract_each_other_whatever_their_scale() -> None:
    torch.manual_seed(0)
    model = RetrievedAttention(32, 2)
    keys = torch.randn(1, 20, 32) * torch.logspace(-1, 3, 20).unsqueeze(-1)
    mask = torch.ones(1, 20, dtype=torch.bool)
    rows = normed_rows(keys, mask)
    logits = model.queries(keys).sum(dim=2) @ rows.mT
    assert (logits.argmax(dim=-1) == torch.arange(20)).all()
    found = Found.highest(torch.zeros(1, 20, 20), mask.unsqueeze(1), 20)
    nearest = torch.cdist(model(keys, rows, found, None), rows).argmin(dim=-1)
    assert (nearest == torch.arange(20)).all()


def test_of_equal_scores_the_newest_are_among_those_found_and_no_padding() -> None:
    scores = torch.tensor([[[1.0, 3.0, 1.0, 1.0, 0.0, 1.0, 9.0]]])
    there, few = (torch.arange(7).view(1, 1, 7) < length for length in (6, 2))

    def among(mask: torch.Tensor, count: int) -> list[int]:
        found = Found.highest(scores, mask, count).among(7)
        return [int(place) for place in found[0, 0].nonzero().flatten()]

    kept = {count: among(there, count) for count in (1, 2, 3, 5, 7)}
    assert kept == {1: [1], 2: [1, 5], 3: [1, 3, 5], 5: [0, 1, 2, 3, 5], 7: [0, 1, 2, 3, 4, 5]}
    assert among(few, 3) == [0, 1]
