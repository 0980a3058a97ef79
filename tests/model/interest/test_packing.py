"""Packing changes the order of computation, never a result."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.interest.din import DeepInterest
from model.interest.options import Din
from model.interest.packing import by_candidates, packed
from tests.model.worlds import nothing_known


@given(
    sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=7),
    matched=st.booleans(),
)
@settings(max_examples=50)
def test_packed_equals_padded_with_gradients(sizes: list[tuple[int, int]], matched: bool) -> None:
    generator = torch.Generator().manual_seed(len(sizes))
    B, L, C, d = len(sizes), 10, 6, 3
    lengths, counts = torch.tensor(sizes).unbind(dim=1)
    mask = torch.arange(L) < lengths.unsqueeze(1)
    target_mask = torch.arange(C) < counts.unsqueeze(1)
    torch.manual_seed(0)
    model = DeepInterest(d, Din()).double()

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    keys, targets, match = leaf(B, L, d), leaf(B, C, d), leaf(B, C, L) if matched else None
    leaves = [keys, targets, *([] if match is None else [match]), *model.parameters()]
    known = nothing_known(mask, target_mask)
    outputs = packed(model, keys, mask, targets, match, known), model(keys, mask, targets, match)
    (one, other) = (
        (output[target_mask], torch.autograd.grad(output[target_mask].square().sum(), leaves)) for output in outputs
    )
    assert outputs[0].shape == outputs[1].shape
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_readouts_in_runs_stand_where_their_candidates_do() -> None:
    target_mask = torch.arange(4) < torch.tensor([2, 2, 0, 4, 1]).unsqueeze(1)
    numbers = torch.arange(20.0).view(5, 4, 1)
    asked = []

    def readout(users: slice, c: int) -> torch.Tensor:
        asked.append((users.start, users.stop, c))
        return numbers[users, :c]

    found = by_candidates(readout, target_mask)
    assert asked == [(0, 2, 2), (2, 3, 1), (3, 4, 4), (4, 5, 1)], "without candidates, one place"
    assert torch.equal(found[target_mask], numbers[target_mask])
    assert found.shape == (5, 4, 1)
    assert not found[4, 1:].any()
