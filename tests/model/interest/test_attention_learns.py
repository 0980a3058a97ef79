"""The attention while it learns: what it keeps, what it reads, and users of unequal size together."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model.interest.din import DeepInterest
from model.interest.options import Din, Sam
from model.interest.packing import packed
from model.interest.sam import SparseAttentiveMemory
from model.interest.sam_reference import literal_sam
from tests.model.worlds import nothing_known

LENGTHS, COUNTS = torch.tensor([0, 1, 24, 25, 70]), torch.tensor([3, 1, 1, 2, 3])


def inputs(B: int, C: int, L: int, d: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((B, L, d), (B, C, d), (B, C, L))
    ]


def test_the_hidden_layer_is_not_kept_for_the_backward() -> None:
    C, L, d, hidden = 10, 200, 4, 16
    model = DeepInterest(d, Din(attention_hidden=hidden)).double()
    keys, targets, match = inputs(2, C, L, d)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(keys, torch.ones(2, L, dtype=torch.bool), targets, match)
    assert kept
    assert max(kept) < hidden * C * L, "the hidden layer of one user"


def test_users_of_unequal_size_learn_what_each_would_alone() -> None:
    torch.manual_seed(0)
    model = SparseAttentiveMemory(8, Sam(passes=3, output="readouts")).double()
    keys, targets, match = inputs(5, 3, 70, 8)
    mask, target_mask = torch.arange(70) < LENGTHS[:, None], torch.arange(3) < COUNTS[:, None]
    wanted = [keys, targets, match, *model.parameters()]

    def gradients(outputs: Tensor) -> tuple[Tensor, ...]:
        real = outputs * target_mask.unsqueeze(-1)
        return torch.autograd.grad((real * torch.cos(torch.arange(real.numel())).view_as(real)).sum(), wanted)

    together = gradients(packed(model, keys, mask, targets, match, nothing_known(mask, target_mask)))
    literally = gradients(literal_sam(model, keys, mask, targets, match))
    for one, other in zip(together, literally, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_padding_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    model = SparseAttentiveMemory(4, Sam(passes=3, output="readouts")).double()
    keys, targets, match = inputs(1, 2, 30, 4)
    mask = torch.arange(30)[None] < 20
    with torch.no_grad():
        keys[:, 20:] = torch.nan
    output = model(keys, mask, targets, match)
    gradient_of_keys, gradient_of_match = torch.autograd.grad(output.sum(), [keys, match])
    assert output.isfinite().all()
    assert gradient_of_keys[:, :20].any(dim=-1).all()
    assert not gradient_of_keys[:, 20:].any()
    assert not gradient_of_match[..., 20:].any()


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    model = DeepInterest(4, Din()).double()
    keys, targets, match = inputs(1, 2, 5, 4)
    given: Any = keys, torch.ones(1, 5, dtype=torch.bool), targets, match
    [gradient] = torch.autograd.grad(model(*given).sum(), keys, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()  # type: ignore[no-untyped-call]
