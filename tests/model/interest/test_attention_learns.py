"""The attention while it learns: what it keeps, what it reads, and users of unequal size together."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.interest.attention import AttentionUnit, Behaviours
from model.interest.din import DeepInterest
from model.interest.options import Din, Sam
from model.interest.packing import packed
from model.interest.sam import SparseAttentiveMemory
from model.interest.sam_reference import literal_sam
from model.kernels import learning, native
from tests.model.worlds import nothing_known

built = pytest.mark.skipif(native.library() is None, reason="the kernel is not built, or this is no CPU with AVX2")
LENGTHS, COUNTS = torch.tensor([0, 1, 24, 25, 70]), torch.tensor([3, 1, 1, 2, 3])


in_both_forms = pytest.mark.parametrize(
    ("dtype", "error"),
    [pytest.param(torch.float64, 1e-9, id="torch"), pytest.param(torch.float32, 3e-4, id="compiled", marks=built)],
)


def inputs(B: int, C: int, L: int, d: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((B, L, d), (B, C, d), (B, C, L))
    ]


@in_both_forms
def test_the_hidden_layer_is_not_kept_for_the_backward(dtype: torch.dtype, error: float) -> None:
    C, L, d, hidden = 10, 200, 4, 16
    model = DeepInterest(d, Din(attention_hidden=hidden)).to(dtype)
    keys, targets, match = inputs(2, C, L, d, dtype)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(keys, torch.ones(2, L, dtype=torch.bool), targets, match)
    assert kept
    assert max(kept) < hidden * C * L, "the hidden layer of one user"


@in_both_forms
def test_users_of_unequal_size_learn_what_each_would_alone(dtype: torch.dtype, error: float) -> None:
    torch.manual_seed(0)
    model = SparseAttentiveMemory(8, Sam(passes=3, output="readouts")).to(dtype)
    keys, targets, match = inputs(5, 3, 70, 8, dtype)
    mask, target_mask = torch.arange(70) < LENGTHS[:, None], torch.arange(3) < COUNTS[:, None]
    wanted = [keys, targets, match, *model.parameters()]

    def gradients(outputs: Tensor) -> tuple[Tensor, ...]:
        real = outputs * target_mask.unsqueeze(-1)
        return torch.autograd.grad((real * torch.cos(torch.arange(real.numel())).view_as(real)).sum(), wanted)

    together = gradients(packed(model, keys, mask, targets, match, nothing_known(mask, target_mask)))
    literally = gradients(literal_sam(model, keys, mask, targets, match))
    for one, other in zip(together, literally, strict=True):
        torch.testing.assert_close(one, other, rtol=error, atol=error * float(other.abs().max().clamp_min(1)))


@pytest.mark.long
@built
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 110), st.integers(1, 40)),
    hidden=st.integers(1, 17),
    queries=st.integers(1, 2),
    seed=st.integers(0, 2**32),
    matched=st.booleans(),
    threads=st.sampled_from([1, 2]),
)
@settings(max_examples=40, deadline=None)
def test_the_compiled_attention_learns_what_torch_learns(
    sizes: tuple[int, int, int, int], hidden: int, queries: int, seed: int, matched: bool, threads: int
) -> None:
    B, C, L, d = sizes
    torch.manual_seed(seed)
    unit = AttentionUnit(d, hidden, queries=queries, normalise=False)
    mask, counts = torch.rand(B, L) < torch.rand(B, 1) * 1.5, torch.randint(1, C + 1, (B,))
    keys, match = torch.randn(B, L, d, requires_grad=True), torch.randn(B, C, L, requires_grad=True)
    asked = [torch.randn(B, C, d, requires_grad=True) for _ in range(queries)]
    upstream = torch.randn(B, C, d) * (torch.arange(C) < counts[:, None]).unsqueeze(-1)
    wanted = [keys, *asked, *[match] * matched, unit.first.weight, unit.first.bias, *unit.second.parameters()]

    def learned(compiled: bool) -> tuple[Tensor, ...]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "get_num_threads", lambda: threads)
            patch.setattr(native, "THREADED", 1)
            if not compiled:
                patch.setattr(learning, "usable", lambda _: False)
            out = unit(Behaviours(keys, mask, counts), asked, match if matched else None)
            return torch.autograd.grad((out * upstream).sum(), wanted)

    for one, other in zip(learned(True), learned(False), strict=True):
        scale = float(other.abs().max().clamp_min(1))
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * scale)


@in_both_forms
def test_padding_is_neither_read_nor_moved(dtype: torch.dtype, error: float) -> None:
    torch.manual_seed(0)
    model = SparseAttentiveMemory(4, Sam(passes=3, output="readouts")).to(dtype)
    keys, targets, match = inputs(1, 2, 30, 4, dtype)
    mask = torch.arange(30)[None] < 20
    with torch.no_grad():
        keys[:, 20:] = torch.nan
    output = model(keys, mask, targets, match)
    gradient_of_keys, gradient_of_match = torch.autograd.grad(output.sum(), [keys, match])
    assert output.isfinite().all()
    assert gradient_of_keys[:, :20].any(dim=-1).all()
    assert not gradient_of_keys[:, 20:].any()
    assert not gradient_of_match[..., 20:].any()


@in_both_forms
def test_a_second_derivative_is_refused_and_not_wrong(dtype: torch.dtype, error: float) -> None:
    model = DeepInterest(4, Din()).to(dtype)
    keys, targets, match = inputs(1, 2, 5, 4, dtype)
    given: Any = keys, torch.ones(1, 5, dtype=torch.bool), targets, match
    [gradient] = torch.autograd.grad(model(*given).sum(), keys, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()  # type: ignore[no-untyped-call]
