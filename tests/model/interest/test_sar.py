"""Sequence adaptation: what the inner model is given, how lengths are chosen, and that the choice is learned."""

from collections import Counter

import msgspec
import pytest
import torch
from torch import Tensor

from model.errors import SpecError
from model.interest.base import Outcome
from model.interest.options import Counts, Din, Dman, Interest, Mean, Sam, Sar
from model.interest.sar import GruGate, LengthPolicy, SequenceAdaptation, _drawn
from model.spec import ModelSpec, overridden, preset
from tests.model.interest.drawn import drawn, randomised
from tests.model.interest.test_multi_head import literal_row_attention

D = 6
LENGTHS = (0, 3, 17, 9, 40, 25)


def model_of(inner: Interest | None = None, cost: float = 0.0) -> SequenceAdaptation:
    torch.manual_seed(0)
    options = Sar(inner=inner or Din(), lengths=(4, 9, 40), window=8, cost=cost)
    model = SequenceAdaptation(D, options)
    randomised(model)
    return model


def choosing(model: SequenceAdaptation, length: int) -> None:
    """Have the policy choose this length wherever it tells anything."""
    with torch.no_grad():
        model.policy.actor.weight.zero_()
        model.policy.actor.bias.fill_(-30.0)
        model.policy.actor.bias[model.lengths.index(length)] = 30.0


def test_the_inner_model_is_given_the_newest_behaviours_and_no_others() -> None:
    model = model_of()
    keys, mask, targets, match, known = drawn(D, candidates=3, lengths=LENGTHS)
    choosing(model, 9)
    sizes: list[tuple[int, ...]] = []
    hook = model.inner.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
    found = model(keys, mask, targets, match, known)
    hook.remove()
    assert sorted(sizes) == [(2, 4, D), (4, 9, D)]
    for b, length in enumerate(LENGTHS):
        newest = slice(max(0, length - 9), max(length, 1))
        expected = model.inner(
            keys[b : b + 1, newest], mask[b : b + 1, newest], targets[b : b + 1], match[b : b + 1, :, newest]
        )
        torch.testing.assert_close(found[b], expected[0], rtol=1e-12, atol=1e-12)
    assert model.chosen == {4: 2, 9: 4}
    model(keys[:1], mask[:1], targets[:1], match[:1], known.part(slice(0, 1), 40, 3))
    assert model.chosen == {4: 3, 9: 4}, "counted since the start"


def literal_gate(gate: GruGate, x: Tensor, y: Tensor) -> Tensor:
    w_r, w_z, w_g = gate.from_layer.weight.chunk(3)
    u_r, u_z = gate.from_input.weight.chunk(2)
    r, z = torch.sigmoid(w_r @ y + u_r @ x), torch.sigmoid(w_z @ y + u_z @ x - gate.closed)
    return (1 - z) * x + z * torch.tanh(w_g @ y + gate.from_reset.weight @ (r * x))


def literal_policy_state(policy: LengthPolicy, keys: Tensor) -> Tensor:
    newest = keys[-policy.window :]
    rows = [policy.input_norm(key) for key in newest]
    bias = torch.stack([policy.distances[:, age] for age in reversed(range(len(rows)))], dim=1) if rows else None
    last = rows[-1] if rows else policy.input_norm(keys.new_zeros(D))
    read = literal_row_attention(policy.attention, last, torch.stack(rows), bias) if rows else keys.new_zeros(D)
    x = literal_gate(policy.attention_gate, last, torch.relu(read))
    hidden = torch.relu(policy.hidden(policy.hidden_norm(x)))
    x = literal_gate(policy.transform_gate, x, torch.relu(policy.transform(hidden)))
    return torch.cat([x, torch.tensor([len(keys) + 1.0], dtype=torch.float64).log() / 7])


def test_the_policy_equals_its_equations() -> None:
    policy = model_of().policy
    keys, mask, *_ = drawn(D, candidates=1, lengths=LENGTHS)
    found = policy.state(keys, mask)
    for b, length in enumerate(LENGTHS):
        torch.testing.assert_close(found[b], literal_policy_state(policy, keys[b, :length]), rtol=1e-10, atol=1e-10)


def test_a_length_that_reads_nothing_more_is_never_chosen() -> None:
    model = model_of()
    _, mask, *_ = drawn(D, candidates=1, lengths=LENGTHS)
    logits = model.policy.logits(torch.zeros(len(LENGTHS), D + 1, dtype=torch.float64), mask)
    possible = (logits > -1e300).sum(dim=1).tolist()
    assert possible == [1, 1, 3, 2, 3, 3]
    probabilities = logits.softmax(dim=1)
    for seed in range(50):
        places = _drawn(probabilities, seed)
        assert (places < torch.tensor(possible)).all()


def test_lengths_are_drawn_as_often_as_they_are_probable_and_again_from_the_same_seed() -> None:
    probabilities = torch.tensor([[0.1, 0.0, 0.6, 0.3]]).expand(20_000, -1)
    places = _drawn(probabilities, 3)
    assert torch.equal(places, _drawn(probabilities, 3))
    shares = torch.bincount(places, minlength=4) / len(places)
    torch.testing.assert_close(shares, probabilities[0], rtol=0, atol=0.015)
    assert shares[1] == 0


def outcome_of(losses: Tensor) -> Outcome:
    """Return an outcome in which nobody clicks and every user's candidates lose so much each."""
    logits = losses.expm1().log()
    return Outcome(logits, torch.zeros_like(logits), torch.ones_like(logits, dtype=torch.bool))


def test_the_policys_loss_equals_its_equation() -> None:
    model = model_of(cost=0.1)
    keys, mask, targets, match, known = drawn(D, candidates=2, lengths=LENGTHS)
    _, extra = model.learn(keys, mask, targets, match, known)
    assert extra is not None
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(LENGTHS), 2, generator=generator, dtype=torch.float64)
    labels = (logits > 0.3).double()
    present = torch.ones_like(labels, dtype=torch.bool)
    present[2] = False
    present[3, 1] = False
    outcome = Outcome(logits, labels, present)
    state = model.policy.state(keys, mask)
    log_probabilities = model.policy.logits(state, mask).log_softmax(dim=1)
    choices = _drawn(log_probabilities.exp(), int(known.items.sum()) % 2**63)
    expected = []
    for b in range(len(LENGTHS)):
        shown = [c for c in range(2) if present[b, c]]
        if not shown:
            continue
        right = torch.stack([logits[b, c].sigmoid() if labels[b, c] else 1 - logits[b, c].sigmoid() for c in shown])
        clicked = torch.stack([labels[b, c] for c in shown]).mean()
        reward = right.log().mean() - 0.1 * model.lengths[choices[b]] / 40
        advantage = reward - model.policy.critic(torch.cat([state[b], clicked.view(1)]))[0]
        entropy = -torch.stack([p.exp() * p for p in log_probabilities[b]]).sum()
        expected.append(0.5 * advantage**2 - advantage.detach() * log_probabilities[b, choices[b]] - 0.01 * entropy)
    torch.testing.assert_close(extra(outcome), 0.1 * torch.stack(expected).mean(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("best", "cost"), [(4, 0.0), (40, 0.0), (4, 0.5)])
def test_the_length_that_pays_is_learned(best: int, cost: float) -> None:
    """Users lose less with one length, or equally much with all, of which each costs what it is long."""
    model = model_of(Mean(), cost=cost)
    optimiser = torch.optim.Adam(model.policy.parameters(), lr=0.003)
    for step in range(60):
        given = drawn(D, candidates=1, lengths=(40, 30, 17, 25, 12, 40, 20, 35) * 2, seed=step)
        keys, mask, _, _, known = given
        with torch.no_grad():
            probabilities = model.policy.logits(model.policy.state(keys, mask), mask).softmax(dim=1)
        lengths = torch.tensor(model.lengths)[_drawn(probabilities, int(known.items.sum()) % 2**63)]
        losses = 0.5 + (0.0 if cost else 0.2) * (lengths != best).double()
        _, extra = model.learn(*given)
        assert extra is not None
        optimiser.zero_grad()
        extra(outcome_of(losses.unsqueeze(1))).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    model(*drawn(D, candidates=1, lengths=(40, 30, 17, 25, 12), seed=999))
    assert model.chosen == Counter({best: 5})


def test_what_an_inner_model_adds_to_the_loss_is_added() -> None:
    found = {}
    for weight in (0.0, 0.1, 0.3):
        model = model_of(Dman(segment=3, slots=2, reconstruction=weight))
        choosing(model, 9)
        _, extra = model.learn(*drawn(D, candidates=2, lengths=(40, 30, 17)))
        assert extra is not None
        found[weight] = extra(outcome_of(torch.full((3, 2), 0.5, dtype=torch.float64)))
    assert found[0.1] > found[0.0]
    torch.testing.assert_close(found[0.3] - found[0.0], 3 * (found[0.1] - found[0.0]))


def test_options_of_the_inner_model_are_options() -> None:
    spec = overridden(
        preset("sar"), {"interest": {"inner": {"kind": "din", "attention_hidden": 3}, "lengths": [5, 50]}}
    )
    assert spec.interest == Sar(inner=Din(attention_hidden=3), lengths=(5, 50))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec) == spec
    assert Sar(inner=Sam()).attends
    assert not Sar(inner=Mean()).attends


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Sar(inner=Sar()), "inner is of kind 'sar', but must be one of sam, din"),
        (Sar(inner=Counts()), "inner is of kind 'counts', but must be one of sam, din"),
        (Sar(lengths=(50, 500)), "must not exceed the model's length, 100"),
        (Sar(lengths=()), "must be ascending"),
        (Sar(lengths=(50, 20)), "must be ascending"),
        (Sar(lengths=(0, 20)), "at least 1"),
        (Sar(lengths=(20, 50), cost=-1.0), "cost is -1.0"),
        (Sar(lengths=(20, 50), inner=Dman(segment=60)), "segment is 60, but must be below the model's length, 50"),
    ],
)
def test_what_cannot_be_built_is_refused(options: Sar, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ModelSpec(interest=options, length=100)
