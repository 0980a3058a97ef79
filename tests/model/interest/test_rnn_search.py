"""Sequential Search: packing, the GRU of packed rows, and the policy, against plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.errors import SpecError
from model.interest.options import RnnSearch
from model.interest.rnn_search import OffPolicy, PackedGru, SequentialSearch, first_fit_decreasing
from model.spec import ModelSpec
from tests.model.interest.drawn import drawn, randomised
from tests.model.interest.test_multi_head import literal_target_attention

D = 6
LENGTHS = (0, 3, 1, 9, 17, 7)


def model_of(options: RnnSearch) -> SequentialSearch:
    torch.manual_seed(0)
    model = SequentialSearch(D, options)
    randomised(model)
    return model


def literal_state(model: SequentialSearch, keys: Tensor) -> Tensor:
    """Return the (d,) state after these behaviours, one at a time."""
    state = keys.new_zeros(1, D)
    for key in keys:
        state = model.gru.cell(model.input_norm(key).unsqueeze(0), state)
    return state[0]


@pytest.mark.parametrize("off_policy", [False, True])
def test_packed_rows_equal_each_user_alone(off_policy: bool) -> None:
    model = model_of(RnnSearch(short=7, off_policy=off_policy))
    keys, mask, targets, match, known = drawn(D, candidates=2, lengths=LENGTHS)
    found = model(keys, mask, targets, match, known)
    for b, length in enumerate(LENGTHS):
        state = literal_state(model, keys[b, max(0, length - 7) : length])
        for c in range(2):
            target = targets[b, c]
            long = literal_target_attention(model.attention, target, keys[b, :length], match[b, c, :length], None)
            expected = [target, model.norm(state), long, target * model.norm(state)]
            if model.policy is not None:
                expected.append(target * model.policy.actor(state))
            torch.testing.assert_close(found[b, c], torch.cat(expected), rtol=1e-10, atol=1e-10)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40))
@settings(max_examples=100)
def test_sequences_neither_overlap_nor_leave_their_row(sizes: list[int]) -> None:
    packing = first_fit_decreasing(sizes, 20)
    taken: set[tuple[int, int]] = set()
    for size, row, start in zip(sizes, packing.rows, packing.starts, strict=True):
        places = {(row, place) for place in range(start, start + size)}
        assert start + size <= 20
        assert not places & taken
        taken |= places
    assert {row for row, _ in taken} == set(range(packing.count))
    assert packing.count <= 11 / 9 * math.ceil(sum(sizes) / 20) * 1.5 + 1


def test_first_fit_decreasing_fills_gaps() -> None:
    packing = first_fit_decreasing([2, 5, 6, 3, 4], 10)
    assert packing.count == 2
    assert packing.rows == [1, 1, 0, 1, 0]
    assert packing.starts == [8, 0, 0, 5, 6]


def test_short_sequences_share_a_row_and_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    gru, keys = PackedGru(4), torch.randn(5, 8, 4)
    mask = torch.arange(8) < torch.tensor([8, 3, 2, 1, 1])[:, None]
    assert first_fit_decreasing([count + 1 for count in mask.sum(dim=1).tolist()], 9).count == 3
    keys = keys.masked_fill(~mask.unsqueeze(-1), 0.0)
    before = gru.states(keys, mask)
    for b in range(1, 5):
        # Even states at their limits leave nothing behind.
        loud = keys.clone()
        loud[b - 1] *= 1e6
        assert torch.equal(gru.states(loud, mask)[b][mask[b]], before[b][mask[b]])


def literal_losses(policy: OffPolicy, states: Tensor, keys: Tensor, mask: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    steps = [(b, t) for b in range(len(mask)) for t in range(mask.shape[1] - 1) if mask[b, t + 1]]
    others = torch.randperm(len(steps), generator=generator).tolist()
    noise = torch.randn(len(steps), D, generator=generator).double()

    def item(step: tuple[int, int]) -> Tensor:
        b, t = step
        return functional.layer_norm(keys[b, t + 1], (D,)) / math.sqrt(D)

    losses = []
    for step, other, moved in zip(steps, others, noise, strict=True):
        b, t = step
        action = policy.actor(states[b, t]) + 0.3 * moved
        reward = -functional.softplus(-(action @ item(step) - action @ item(steps[other])))
        after = states[b, t + 1]
        # The targets have not moved yet.
        value_after = policy.critic(torch.cat([after, policy.actor(after)]))
        value = policy.critic(torch.cat([states[b, t], action]))
        believed = policy.critic(torch.cat([states[b, t], policy.actor(states[b, t])]))
        losses.append((value - reward - policy.discount * value_after) ** 2 - believed)
    return torch.stack(losses).mean()


def test_the_policys_losses_equal_plain_loops() -> None:
    torch.manual_seed(0)
    policy = OffPolicy(D, 0.9).double()
    keys, mask, *_ = drawn(D, candidates=1, lengths=(0, 1, 2, 5))
    states = torch.randn_like(keys)
    found = policy.losses(states, keys, mask, 7)
    torch.testing.assert_close(found, literal_losses(policy, states, keys, mask, 7), rtol=1e-10, atol=1e-10)
    assert policy.losses(states[:2], keys[:2], mask[:2], 7) == 0, "nobody took a step"


def test_the_actors_loss_moves_actor_and_gru_and_the_critics_the_critic() -> None:
    model = model_of(RnnSearch(short=7, off_policy=True))
    _, extra = model.learn(*drawn(D, candidates=2, lengths=LENGTHS))
    assert extra is not None
    extra(None).backward()  # type: ignore[arg-type, no-untyped-call]  # it reads nothing of the outcome
    moved = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {"policy", "gru", "input_norm"}
    assert all(parameter.grad is not None for parameter in model.policy.parameters())  # type: ignore[union-attr]


def test_targets_follow_in_observe_and_only_there() -> None:
    model = model_of(RnnSearch(short=7, off_policy=True))
    given = drawn(D, candidates=2, lengths=LENGTHS)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.learn(*given)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    with torch.no_grad():
        model.observe(*given[:2])
    after = dict(model.named_buffers())
    assert after.keys() == before.keys()
    assert len(before) == 10
    parameters = dict(model.named_parameters())
    old, new = before["policy.target_actor_0_weight"], after["policy.target_actor_0_weight"]
    torch.testing.assert_close(new, 0.99 * old + 0.01 * parameters["policy.actor.0.weight"])


def test_an_actor_learns_what_comes_next() -> None:
    """Items alternate: after one kind comes the other, so the action must turn with the state."""
    torch.manual_seed(0)
    policy = OffPolicy(8, 0.5)
    kinds = functional.layer_norm(torch.randn(2, 8), (8,))
    keys = kinds[torch.arange(12) % 2].expand(16, -1, -1)
    states, mask = keys, torch.ones(16, 12, dtype=torch.bool)
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.01)

    def preference() -> Tensor:
        actions = policy.actor(kinds)
        return torch.stack([actions[0] @ (kinds[1] - kinds[0]), actions[1] @ (kinds[0] - kinds[1])])

    for seed in range(200):
        optimiser.zero_grad()
        policy.losses(states, keys, mask, seed).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            policy.follow()
    assert preference().min().item() > 2.0


def test_without_the_policy_nothing_is_added_to_a_step() -> None:
    model = model_of(RnnSearch())
    _, extra = model.learn(*drawn(D, candidates=2, lengths=LENGTHS))
    assert extra is None
    assert not model.observes
    assert not list(model.buffers())


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(SpecError, match=r"discount is 1\.0"):
        ModelSpec(interest=RnnSearch(discount=1.0))
    with pytest.raises(SpecError, match="short is 0"):
        ModelSpec(interest=RnnSearch(short=0))
