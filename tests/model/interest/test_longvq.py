"""LongVQ against attention to every behaviour by its quantised key; and how its codebook learns."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from model.interest.base import Outcome
from model.interest.longvq import QuantisedAttention
from model.interest.options import LongVq
from model.learner import Learner
from model.scorer import Scorer
from model.spec import preset
from tests.model.interest.drawn import drawn, normed, randomised
from tests.model.worlds import example

D = 6


def built(**options: Any) -> QuantisedAttention:
    torch.manual_seed(0)
    model = QuantisedAttention(D, LongVq(**{"codes": 4, "window": 3} | options))
    randomised(model)
    return model


def states_of(model: QuantisedAttention, keys: Tensor) -> list[Tensor]:
    """Return x_t of n behaviours, one after the other."""
    average = model.average
    rate, damping = average.rate.sigmoid(), average.damping.sigmoid()
    state, states = torch.zeros(D, dtype=keys.dtype), []
    for k in keys:
        state = rate * k + (1 - rate * damping) * state
        states.append(k + average.gate(k).sigmoid() * (state - k))
    return states


def literal(model: QuantisedAttention, q: Tensor, keys: Tensor, match: Tensor | None) -> Tensor:
    """Return [q, r] of one candidate, with a logit for every one of n behaviours, of which older ones have codes."""
    query = normed(model.query.weight @ q, model.query_norm)
    states = states_of(model, keys)
    exact = [normed(model.key.weight @ x, model.key_norm) for x in states]
    codes = [int((k - model.codes).square().sum(dim=-1).argmin()) for k in exact]
    old = max(len(keys) - model.window, 0)
    logits, values = [], []
    for at, (x, k) in enumerate(zip(states, exact, strict=True)):
        logit = query @ (model.codes[codes[at]] if at < old else k) / math.sqrt(D)
        logit = logit + (model.bias[len(keys) - 1 - at] if at >= old else 0.0)
        logits.append(logit if match is None else logit + match[at])
        values.append(model.value.weight @ x)
    for code in set(codes[:old]):  # matches or not, a code is worth the mean of its behaviours
        members = [at for at in range(old) if codes[at] == code]
        mean = torch.stack([values[at] for at in members]).mean(dim=0)
        for at in members:
            values[at] = mean
    r = torch.zeros(D, dtype=q.dtype)
    if logits:
        weights = torch.softmax(torch.stack(logits), 0)
        r = sum((w * v for w, v in zip(weights, values, strict=True)), r)
    return torch.cat([q, normed(r, model.norm)])


@pytest.mark.parametrize("window", [1, 3, 30])
@pytest.mark.parametrize("matched", [False, True])
def test_it_is_softmax_attention_to_every_behaviour(window: int, matched: bool) -> None:
    model = built(window=window)
    keys, mask, targets, match, _ = drawn(D, lengths=(20, 0, 1, 4, 9))
    output = model(keys, mask, targets, match if matched else None)
    for user, candidates in enumerate(targets):
        for c, q in enumerate(candidates):
            of_candidate = match[user, c, mask[user]] if matched else None
            expected = literal(model, q, keys[user, mask[user]], of_candidate)
            torch.testing.assert_close(output[user, c], expected, rtol=1e-9, atol=1e-9)


def test_gradients_go_straight_through_the_codes() -> None:
    """As if the code were the key itself, moved by something constant."""
    model = built(window=1)
    keys, mask, targets, _, _ = drawn(D, lengths=(9,), candidates=1)
    keys = keys.requires_grad_()
    weights = torch.cos(torch.arange(2 * D, dtype=torch.float64))
    found = torch.autograd.grad(model(keys, mask, targets)[0, 0] @ weights, [keys, model.key.weight])

    def straight(keys: Tensor) -> Tensor:
        states = model.average(keys)
        exact = model.key_norm(model.key(states))
        moved = (model.codes[model._nearest(exact)] - exact).detach()
        moved[:, -1] = 0.0
        query = model.query_norm(model.query(targets))
        logits = query @ (exact + moved).mT / math.sqrt(D) + torch.nn.functional.pad(model.bias, (8, 0))
        alike = model._nearest(exact).unsqueeze(-1) == model._nearest(exact).unsqueeze(1)
        alike[:, -1], alike[..., -1] = torch.eye(9, dtype=torch.bool)[-1], torch.eye(9, dtype=torch.bool)[-1]
        values = alike.double() / alike.sum(dim=-1, keepdim=True) @ model.value(states)
        return torch.cat([targets, model.norm(torch.softmax(logits, -1) @ values)], dim=-1)

    expected = torch.autograd.grad(straight(keys)[0, 0] @ weights, [keys, model.key.weight])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_commitment_loss_draws_keys_to_their_codes() -> None:
    model = built(commitment=0.5)
    keys, mask, targets, match, known = drawn(D)
    vectors, extra = model.learn(keys, mask, targets, match, known)
    torch.testing.assert_close(vectors, model(keys, mask, targets, match), rtol=0, atol=0)
    assert extra is not None
    found = extra(Outcome(vectors[..., 0], vectors[..., 0], known.target_mask))
    distances = []
    for user in range(len(keys)):
        for x in states_of(model, keys[user, mask[user]]):
            exact = normed(model.key.weight @ x, model.key_norm)
            distances.append((exact - model.codes).square().mean(dim=-1).min())
    torch.testing.assert_close(found, 0.5 * torch.stack(distances).mean(), rtol=1e-9, atol=1e-9)
    assert torch.autograd.grad(found, model.key.weight)[0].any()
    assert built(commitment=0.0).learn(keys, mask, targets, match, known)[1] is None
    assert model.learn(keys, mask & False, targets, match, known)[1] is None, "of nothing"


def observed(model: QuantisedAttention, keys: Tensor, steps: int = 1) -> None:
    mask = torch.ones(keys.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        for _ in range(steps):
            model.observe(keys, mask)


def exact_keys(model: QuantisedAttention, keys: Tensor) -> Tensor:
    exact: Tensor = model.key_norm(model.key(model.average(keys))).flatten(0, 1).detach()
    return exact


def test_codes_begin_at_keys_and_become_the_means_of_theirs() -> None:
    model = built(codes=8)
    centres = torch.randn(4, D, dtype=torch.float64)
    keys = (centres[torch.arange(400) % 4] + 0.01 * torch.randn(400, D, dtype=torch.float64)).view(400, 1, D)
    observed(model, keys)
    exact = exact_keys(model, keys)
    assert all((exact == code).all(dim=-1).any() for code in model.codes), "at first, a code is a key"
    observed(model, keys, 600)
    nearest = model._nearest(exact)
    for code in sorted(set(nearest.tolist())):
        torch.testing.assert_close(model.codes[code], exact[nearest == code].mean(dim=0), rtol=0, atol=0.02)
    assert (exact - model.codes[nearest]).norm(dim=-1).max() < 0.2


def test_a_code_that_nobody_uses_begins_anew_and_used_ones_stay() -> None:
    model = built()
    keys = torch.randn(40, 1, D, dtype=torch.float64)
    observed(model, keys, 20)
    exact = exact_keys(model, keys)
    with torch.no_grad():
        model.codes[2] = 100.0
        model.sums[2] = 100.0 * model.usage[2]
    before = model.codes.clone()
    assert not (model._nearest(exact) == 2).any()
    observed(model, keys, 30)
    assert torch.equal(model.codes[2].round(), before[2]), "not yet"
    observed(model, keys, 300)
    assert (model.codes[2] - exact).norm(dim=-1).min() < 2.0
    assert (model._nearest(exact) == 2).any()


def test_codes_move_in_observe_alone_and_nothing_is_observed_of_nothing() -> None:
    model = built()
    keys, mask, targets, match, known = drawn(D)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert set(before) == {"codes", "usage", "sums"}
    model(keys, mask, targets, match)
    vectors, _ = model.learn(keys, mask, targets, match, known)
    torch.autograd.backward(vectors.sum())
    with torch.no_grad():
        model.observe(keys, mask & False)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    with torch.no_grad():
        model.observe(keys, mask)
    assert all(not torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_codes_are_published_with_the_parameters() -> None:
    spec = replace(preset("longvq"), interest=LongVq(codes=5, window=4), item_dim=3, category_dim=5, length=30)
    learner, rng = Learner(spec, seed=3), np.random.default_rng(0)
    learner.begin_epoch(1)
    scorer = Scorer(spec, seed=3)
    scorer.apply(learner.base("arm"))
    batch = [example(rng, 25, 4) for _ in range(8)]
    codes = "interest.codes"
    before = learner.base("arm").tensors[codes]
    learner.learn(batch)
    delta = learner.delta("arm")
    assert (delta.tensors[codes] != before).any()
    scorer.apply(delta)
    for one, other in zip(learner.predict(batch), scorer.score(batch), strict=True):
        assert one.tobytes() == other.tobytes()
