"""Search and attention by one relevance, against their literal forms."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.interest.base import Known
from model.interest.options import Twin
from model.interest.twin import TwoStageInterest, in_turn
from tests.model.interest.drawn import drawn, normed, randomised
from tests.model.interest.test_retrieval import best, unit


@torch.no_grad()
def relevances(model: TwoStageInterest, target: Tensor, keys: Tensor, match: Tensor, known: Known) -> list[list[float]]:
    """Return of every head the relevance of one user's behaviours to a candidate, from the equation."""
    attention = model.attention
    width = len(attention.query.weight) // attention.heads
    found = []
    for head in range(attention.heads):
        own = slice(head * width, (head + 1) * width)
        query = attention.query.weight[own] @ unit(target)
        of_head = []
        for at, key in enumerate(keys):
            cross = torch.cat([model.actions.weight[known.actions[0, at]], model.ages.weight[known.ages[0, at]]])
            product = query @ (attention.key.weight[own] @ unit(key)) / math.sqrt(width)
            of_head.append(float(product + model.compressed.weight[head] @ cross + match[at]))
        found.append(of_head)
    return found


def walked(rankings: list[list[int]], count: int) -> list[int]:
    """Return the first different places of rankings that are walked down side by side."""
    met: list[int] = []
    for step in zip(*rankings, strict=True):
        for place in step:
            if place not in met and len(met) < count:
                met.append(place)
    return met


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("retrieved", [1, 5, 100])
def test_it_equals_its_literal_form(heads: int, retrieved: int) -> None:
    torch.manual_seed(0)
    keys, mask, targets, match, known = drawn(lengths=(20, 0, 1, 4, 13))
    model = TwoStageInterest(6, Twin(retrieved=retrieved, heads=heads))
    randomised(model)
    vectors = model(keys, mask, targets, match, known)
    for b, c in [(b, c) for b in range(len(mask)) for c in range(targets.shape[1])]:
        length = int(mask[b].sum())
        own = known.part(slice(b, b + 1), length, targets.shape[1])
        alphas = relevances(model, targets[b, c], keys[b, :length], match[b, c], own)
        places = walked([best(alpha, range(length), length) for alpha in alphas], retrieved)
        read = []
        for alpha in alphas:
            weights = torch.tensor([math.exp(alpha[at]) for at in places], dtype=torch.float64)
            rows = torch.stack([unit(keys[b, at]) for at in places]) if places else keys.new_zeros(0, 6)
            read.append(weights / weights.sum() @ rows)
        readout = normed(model.attention.out.weight @ torch.cat(read), model.attention.norm)
        expected = torch.cat([targets[b, c], readout, targets[b, c] * readout])
        torch.testing.assert_close(vectors[b, c], expected)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_heads_choose_side_by_side(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    # Few values, so that many are equal.
    relevance = torch.randint(0, 5, (2, 3, 4, 30), generator=generator).float()
    mask = torch.arange(30) < torch.tensor([[30], [5]])
    found = in_turn(relevance, mask, count)
    for b, length in enumerate((30, 5)):
        for c in range(3):
            rankings = [best(of_head, range(length), length) for of_head in relevance[b, c].tolist()]
            assert found.places[b, c][found.there[b, c]].tolist() == walked(rankings, count)


def test_a_new_model_finds_the_same_item_and_knows_nothing_of_actions_and_ages() -> None:
    torch.manual_seed(0)
    model = TwoStageInterest(32, Twin())
    assert torch.equal(model.attention.query.weight, model.attention.key.weight)
    known = drawn(lengths=(40,))[-1]
    keys = torch.randn(1, 40, 32)
    relevance = model.relevance(keys, keys[:, :3], None, known)
    assert (relevance.sum(dim=2).argmax(dim=-1) == torch.arange(3)).all()
    later = replace(known, actions=known.actions + 1, ages=63 - known.ages)
    assert torch.equal(model.relevance(keys, keys[:, :3], None, later), relevance)


def test_the_age_decides_what_is_found_once_it_is_learned() -> None:
    torch.manual_seed(0)
    model = TwoStageInterest(6, Twin(retrieved=2)).double()
    keys, mask, targets, _, known = drawn(candidates=1, lengths=(12,))
    known = replace(known, ages=torch.arange(12).flip(0).unsqueeze(0))
    with torch.no_grad():
        model.ages.weight[:2] = 100 * torch.sign(model.compressed.weight[0, 8:])
        model.compressed.weight[1] = model.compressed.weight[0]
    found = in_turn(model.relevance(torch.zeros_like(keys), targets, None, known), mask, 2)
    assert sorted(found.places.flatten().tolist()) == [10, 11]
