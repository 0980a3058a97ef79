"""DARE against its equations, and which loss moves which of its embeddings."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from model.interest.base import Outcome
from model.interest.dare import DecoupledEmbeddings
from model.interest.options import Dare
from model.learner import Learner
from model.predict import table_dims
from model.scorer import Scorer
from model.spec import preset
from tests.model.interest.drawn import drawn, randomised
from tests.model.worlds import example

SMALL = Dare(item_attention_dim=3, category_attention_dim=2, retrieved=3)
D, REPRESENTED = 9, 4


def built(options: Dare = SMALL) -> DecoupledEmbeddings:
    torch.manual_seed(0)
    model = DecoupledEmbeddings(D, options)
    randomised(model)
    return model


def attended(q: Tensor, keys: Tensor, match: Tensor, retrieved: int) -> Tensor:
    """Return the readout of one candidate; `keys` are the n behaviours that there are."""
    logits = [q[REPRESENTED:] @ k[REPRESENTED:] / math.sqrt(5) + m for k, m in zip(keys, match, strict=True)]
    best = sorted(range(len(keys)), key=lambda at: (float(logits[at].detach()), at), reverse=True)[:retrieved]
    if not best:
        return torch.zeros(REPRESENTED, dtype=q.dtype)
    weights = torch.softmax(torch.stack([logits[at] for at in best]), 0)
    return torch.stack([w * keys[at, :REPRESENTED] for w, at in zip(weights, best, strict=True)]).sum(dim=0)


@pytest.mark.parametrize("retrieved", [1, 3, 30])
def test_it_computes_its_equations(retrieved: int) -> None:
    model = built(replace(SMALL, retrieved=retrieved))
    keys, mask, targets, match, known = drawn(D)
    vectors, extra = model.learn(keys, mask, targets, match, known)
    torch.testing.assert_close(model(keys, mask, targets, match), vectors, rtol=0, atol=0)
    second = torch.zeros(targets.shape[:2], dtype=torch.float64)
    for user, candidates in enumerate(targets):
        there = keys[user, mask[user]]
        mean = there.mean(dim=0)[:REPRESENTED] if len(there) else torch.zeros(REPRESENTED)
        for c, q in enumerate(candidates):
            of_q, matches = q[:REPRESENTED], match[user, c, mask[user]]
            r = attended(q, there, matches, retrieved)
            expected = torch.cat([of_q, r, of_q * r, mean, of_q * mean])
            torch.testing.assert_close(vectors[user, c], expected, rtol=1e-10, atol=1e-10)
            whole = attended(q, there, matches, len(there))
            assert model.auxiliary is not None
            second[user, c] = model.auxiliary(torch.cat([of_q, whole, of_q * whole]))
    assert extra is not None
    labels = torch.rand(second.shape, dtype=torch.float64).round()
    outcome = Outcome(second, labels, known.target_mask)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(second, labels)
    torch.testing.assert_close(extra(outcome), expected, rtol=1e-10, atol=1e-10)


def test_attention_and_representation_are_apart() -> None:
    """What is represented does not depend on the attention's embeddings but through weights, and never the reverse."""
    model = built()
    keys, mask, targets, match, _ = drawn(D, lengths=(4, 7))
    other = keys.clone()
    other[..., :REPRESENTED] += 1.0
    one, moved = (model._logits(each, targets, match) for each in (keys, other))
    torch.testing.assert_close(one[mask.unsqueeze(1).expand_as(one)], moved[mask.unsqueeze(1).expand_as(one)])
    assert model.width == 5 * REPRESENTED
    # With a behaviour alone there is nothing to weigh: the attention's embeddings play no part.
    alone = keys[:, :1].clone().requires_grad_()
    gradients = torch.autograd.grad(model(alone, mask[:, :1], targets, match[..., :1]).sum(), alone)[0]
    assert gradients[..., :REPRESENTED].all()
    assert not gradients[..., REPRESENTED:].any()


def test_the_auxiliary_loss_teaches_attention_to_behaviours_that_are_not_retrieved() -> None:
    for weight in (0.0, 1.0):
        model = built(replace(SMALL, retrieved=1, auxiliary=weight))
        keys, mask, targets, match, known = drawn(D, lengths=(9, 4))
        keys = keys.masked_fill(~mask.unsqueeze(-1), 0.0).requires_grad_()
        vectors, extra = model.learn(keys, mask, targets, match, known)
        outcome = Outcome(vectors[..., 0], vectors[..., 0].round(), known.target_mask)
        loss = vectors.sum() if extra is None else extra(outcome)
        gradients = torch.autograd.grad(loss, keys)[0][..., REPRESENTED:]
        assert (extra is None) == (weight == 0)
        assert bool(gradients[mask].any(dim=-1).all()) == (weight > 0)


def test_both_sets_of_tables_learn_and_are_published() -> None:
    spec = replace(preset("dare"), interest=SMALL, item_dim=3, category_dim=1, hidden=(8,), length=20)
    assert table_dims(spec) == {"item": 3, "category": 1, "item_attention": 3, "category_attention": 2}
    learner, rng = Learner(spec, seed=3), np.random.default_rng(0)
    learner.begin_epoch(1)
    scorer = Scorer(spec, seed=3)
    scorer.apply(learner.base("arm"))
    batch = [example(rng, 15, 4) for _ in range(8)]
    before = table_rows(learner.state())
    for _ in range(3):
        learner.learn(batch)
    after = table_rows(learner.state())
    assert {name for name in after if len(after[name]) > len(before[name])} == set(table_dims(spec))
    scorer.apply(learner.delta("arm"))
    for one, other in zip(learner.predict(batch), scorer.score(batch), strict=True):
        assert one.tobytes() == other.tobytes()


def table_rows(state: dict[str, Any]) -> dict[str, Any]:
    return {name.removesuffix("/keys"): array for name, array in state.items() if name.endswith("/keys")}
