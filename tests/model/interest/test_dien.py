"""DIEN against its equations, one behaviour and one candidate at a time; and what its auxiliary loss teaches."""

import pytest
import torch
from torch import Tensor, nn

from model.interest.base import Outcome
from model.interest.dien import DeepInterestEvolution, next_behaviour_loss
from model.interest.options import Dien
from tests.model.interest.drawn import Inputs, drawn, randomised

D = 6


def built(options: Dien | None = None) -> DeepInterestEvolution:
    model = DeepInterestEvolution(D, options or Dien(recent=5))
    randomised(model)
    return model


def gru(x: Tensor, h: Tensor, cell: nn.Module, attention: Tensor | float, suffix: str = "") -> Tensor:
    """Return a GRU's next state, its update gate times `attention`; torch's update gate is 1 − u."""
    weights = [getattr(cell, f"{name}{suffix}") for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")]
    r_x, z_x, n_x = (weights[0] @ x + weights[1]).chunk(3)
    r_h, z_h, n_h = (weights[2] @ h + weights[3]).chunk(3)
    fresh = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    update = attention * torch.sigmoid(z_x + z_h)
    return (1 - update) * h + update * fresh


def literal(model: DeepInterestEvolution, inputs: Inputs) -> Tensor:
    keys, mask, targets, match, _ = inputs
    outputs = torch.zeros(*targets.shape[:2], 2 * D, dtype=torch.float64)
    for b in range(len(keys)):
        places = mask[b].nonzero()[:, 0].tolist()[-model.recent :]
        states, state = [], torch.zeros(D, dtype=torch.float64)
        with torch.no_grad():
            for place in places:
                state, _ = model.extractor(keys[b, place].view(1, 1, D), state.view(1, 1, D))
                state = state.view(D)
                states.append(state)
            for c, q in enumerate(targets[b]):
                evolved = torch.zeros(D, dtype=torch.float64)
                if states:
                    logits = [h @ model.bilinear.T @ q + match[b, c, at] for h, at in zip(states, places, strict=True)]
                    for h, attention in zip(states, torch.softmax(torch.stack(logits), 0), strict=True):
                        evolved = gru(h, evolved, model.cell, attention)
                outputs[b, c] = torch.cat([q, evolved])
    return outputs


@pytest.mark.parametrize("recent", [1, 5, 9, 30])
def test_it_computes_its_equations(recent: int) -> None:
    model, inputs = built(Dien(recent=recent)), drawn(D)
    # The update gate of the AUGRU is the one of the paper; torch's own, of the extractor, is what it keeps.
    torch.testing.assert_close(model(*inputs), literal(model, inputs), rtol=1e-10, atol=1e-10)


def test_learning_sees_what_serving_sees_and_skips_absent_candidates() -> None:
    model, (keys, mask, targets, match, known) = built(), drawn(D)
    expected = model(keys, mask, targets, match, known)
    known.target_mask[0, 1:] = False
    found, _ = model.learn(keys, mask, targets, match, known)
    there = known.target_mask
    torch.testing.assert_close(found[there], expected[there], rtol=1e-12, atol=1e-12)
    assert not found[~there][:, D:].any()


def test_no_attention_moves_no_state() -> None:
    model, (keys, mask, targets, _, known) = built(), drawn(D)
    others = torch.zeros(*targets.shape[:2], mask.shape[1], dtype=torch.float64)
    others[..., 0] = 1e9  # the first behaviour of each user takes all attention
    whole = model(keys, mask, targets, others, known)[3]
    first = model(keys[:, :1], mask[:, :1], targets, others[..., :1], known)[3]
    torch.testing.assert_close(whole, first, rtol=1e-12, atol=1e-12)


def test_the_auxiliary_loss_is_that_of_the_next_behaviour_and_of_anothers() -> None:
    """By age, each is told from the behaviour before it in this order; the youngest from the oldest."""
    generator = torch.Generator().manual_seed(0)
    states, keys = (torch.randn(3, 2, D, generator=generator, dtype=torch.float64) for _ in range(2))
    items, ages = torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[9, 5], [8, 6], [7, 4]])
    loss = next_behaviour_loss(states, keys, torch.ones(3, 2, dtype=torch.bool), items, ages)
    expected = 0.0
    for user, other in enumerate([(2, 1), (0, 1), (0, 0)]):
        expected -= float(torch.sigmoid(states[user, 0] @ keys[user, 1]).log()) / 3
        expected -= float(torch.sigmoid(-states[user, 0] @ keys[other]).log()) / 3
    assert float(loss) == pytest.approx(expected, abs=1e-12)


def test_it_teaches_the_extractor_and_nothing_of_the_attention() -> None:
    model, (keys, mask, targets, match, known) = built(), drawn(D, lengths=(9, 7, 8))
    keys.requires_grad_()
    _, extra = model.learn(keys, mask, targets, match, known)
    assert extra is not None
    logits = torch.zeros(targets.shape[:2])
    extra(Outcome(logits, logits, known.target_mask)).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.extractor.parameters())
    assert model.bilinear.grad is None
    assert all(parameter.grad is None for parameter in model.cell.parameters())
    assert keys.grad is not None
    assert keys.grad[:, -2].any()


@pytest.mark.long
def test_it_can_be_learned() -> None:
    """In two steps of item i comes item i + 1: states learn to tell it, which chance does not."""
    torch.manual_seed(0)
    table = nn.Embedding(20, D)
    extractor = nn.GRU(D, D, batch_first=True)
    optimiser = torch.optim.Adam([*table.parameters(), *extractor.parameters()], lr=0.03)
    losses = []
    for step in range(60):
        items = (torch.arange(12) + 3 * torch.arange(16).unsqueeze(1) + step) % 20
        keys = table(items)
        loss = next_behaviour_loss(
            extractor(keys)[0], keys, torch.ones_like(items, dtype=torch.bool), items, torch.zeros_like(items)
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_others_are_of_other_users_of_another_item_and_of_about_the_same_age() -> None:
    """Keys that contain nothing but the time say nothing: the loss of a state that says "yes" is that of one in two."""
    mask = torch.ones(40, 25, dtype=torch.bool)
    ages = torch.arange(25).flip(0).expand(40, -1)
    keys = ages.unsqueeze(-1).double()
    items = torch.arange(1000).view(40, 25)
    loss = next_behaviour_loss(torch.ones(40, 25, 1, dtype=torch.float64), keys, mask, items, ages)
    same = torch.nn.functional.softplus(-keys[:, 1:]) + torch.nn.functional.softplus(keys[:, 1:])
    assert float(loss) == pytest.approx(float(same.mean()), rel=0.02)
    assert float(next_behaviour_loss(torch.ones(40, 25, 1), keys.float(), mask, torch.ones_like(items), ages)) == 0.0
    alone = mask[:1], items[:1], ages[:1]
    assert float(next_behaviour_loss(torch.ones(1, 25, 1), keys[:1].float(), *alone)) == 0.0


def test_without_weight_there_is_no_auxiliary_loss() -> None:
    keys, mask, targets, match, known = drawn(D)
    assert built(Dien(auxiliary=0)).learn(keys, mask, targets, match, known)[1] is None
