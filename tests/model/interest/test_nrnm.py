"""Non-local Recurrent Neural Memory against its equations, one behaviour at a time."""

import dataclasses

import pytest
import torch
from torch import Tensor

from model.errors import SpecError
from model.interest.nrnm import BlockMemory, NonLocalRecurrentMemory
from model.interest.options import Nrnm
from model.spec import ModelSpec
from tests.model.interest.drawn import drawn, randomised
from tests.model.interest.test_multi_head import literal_row_attention, literal_target_attention

D, OPTIONS = 6, Nrnm(stride=4, slots=2, heads=2)
LENGTHS = (0, 3, 4, 9, 17)


def model_of(options: Nrnm = OPTIONS) -> NonLocalRecurrentMemory:
    torch.manual_seed(0)
    model = NonLocalRecurrentMemory(D, options)
    randomised(model)
    return model


def literal_memory(
    block: BlockMemory, inputs: list[Tensor], states: list[Tensor], memory: list[Tensor]
) -> list[Tensor]:
    projected = block.project(torch.cat(inputs))
    tokens = [*states, projected]
    attended = [
        block.attended(token + literal_row_attention(block.attention, token, torch.stack(tokens))) for token in tokens
    ]
    changed = [
        block.transformed(token + torch.relu(block.transform(torch.relu(block.hidden(token))))) for token in attended
    ]
    renewed = []
    for row, token in zip(memory, changed[:-1], strict=True):
        gates = block.gates_of_inputs(projected) + block.gates_of_memory(torch.tanh(row))
        taken, kept = torch.sigmoid(gates[:D]), torch.sigmoid(gates[D:])
        renewed.append(taken * torch.tanh(token) + kept * row)
    return renewed


def literal_user(model: NonLocalRecurrentMemory, keys: Tensor, target: Tensor, match: Tensor) -> Tensor:
    """Return the vector of one candidate for a user with exactly these behaviours."""
    lstm, block = dict(model.lstm.named_parameters()), model.memory
    hidden, cell = keys.new_zeros(D), keys.new_zeros(D)
    memory = [keys.new_zeros(D)] * model.slots
    states: list[Tensor] = []
    memories: list[Tensor] = []
    for at, key in enumerate(keys, start=1):
        gates = lstm["weight_ih_l0"] @ key + lstm["bias_ih_l0"] + lstm["weight_hh_l0"] @ hidden + lstm["bias_hh_l0"]
        i, f, g, o = gates.chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        states.append(hidden)
        if at % model.stride == 0:
            each = model.stride // model.slots
            kept = states[at - model.stride :][each - 1 :: each]
            memory = literal_memory(block, list(keys[at - model.stride : at]), kept, memory)
            memories += memory
            flat = torch.cat(memory)
            opened = block.refinement_of_inputs(block.project(keys[at - model.stride : at].flatten()))
            opened = opened + block.refinement_of_memory(flat)
            cell = cell + block.refinement(torch.sigmoid(opened) * flat)
    nothing = keys.new_zeros(0, D)
    return torch.cat(
        [
            target,
            literal_target_attention(model.to_states, target, keys, match, torch.stack(states) if states else nothing),
            literal_target_attention(
                model.to_memories, target, torch.stack(memories) if memories else nothing, None, None
            ),
            model.norm(states[-1] if states else keys.new_zeros(D)),
        ]
    )


def test_blocks_equal_one_behaviour_at_a_time() -> None:
    model = model_of()
    keys, mask, targets, match, known = drawn(D, candidates=3, lengths=LENGTHS)
    found = model(keys, mask, targets, match, known)
    for b, length in enumerate(LENGTHS):
        for c in range(3):
            expected = literal_user(model, keys[b, :length], targets[b, c], match[b, c, :length])
            torch.testing.assert_close(found[b, c], expected, rtol=1e-9, atol=1e-9)


def test_learning_from_all_users_at_once_is_the_same() -> None:
    model = model_of()
    keys, mask, targets, match, known = drawn(D, candidates=3, lengths=LENGTHS)
    counts = torch.tensor([3, 3, 1, 2, 2])
    known = dataclasses.replace(known, target_mask=torch.arange(3) < counts.unsqueeze(1))
    vectors, extra = model.learn(keys, mask, targets, match, known)
    assert extra is None
    expected = model(keys, mask, targets, match, known)
    torch.testing.assert_close(vectors[known.target_mask], expected[known.target_mask], rtol=1e-10, atol=1e-10)


def test_the_memory_refines_what_follows_a_block_and_nothing_before() -> None:
    model = model_of()
    keys, *_ = drawn(D, candidates=1, lengths=(8,))
    states, _ = model._read(keys)
    with torch.no_grad():
        model.memory.refinement.weight.zero_()
    plain, _ = model._read(keys)
    assert torch.equal(states[:, :4], plain[:, :4])
    assert not torch.allclose(states[:, 4], plain[:, 4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Nrnm(stride=10, slots=4), "multiple of interest.slots, 4"),
        (Nrnm(stride=60), "at most the model's length, 50"),
        (Nrnm(slots=0), "slots is 0, but must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(options: Nrnm, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ModelSpec(interest=options, length=50)
