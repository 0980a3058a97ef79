"""Factored SAM against the literal reference: two computations of one mathematics."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.interest.options import Sam
from model.interest.sam import SparseAttentiveMemory
from model.interest.sam_reference import literal_sam
from model.kernels import by_user

OPTIONS = st.fixed_dictionaries(
    {
        "attention_hidden": st.integers(1, 9),
        "passes": st.integers(1, 4),
        "feedback": st.sampled_from(["iter", "stk"]),
        "normalise_readout": st.booleans(),
        "output": st.sampled_from(["readouts", "paper"]),
        "shared_attention": st.booleans(),
        "enhancement": st.booleans(),
    }
)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 17), st.integers(1, 9))


def random_inputs(
    sizes: tuple[int, int, int, int], seed: int, scale: float, dtype: torch.dtype, matched: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Draw keys, mask (empty and full rows too), targets and match logits of sizes (B, C, L, d)."""
    B, C, L, d = sizes
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=dtype) * scale).requires_grad_()

    mask = torch.rand(B, L, generator=generator) < torch.rand(B, 1, generator=generator) * 1.5 - 0.25
    return normal(B, L, d), mask, normal(B, C, d), normal(B, C, L) if matched else None


def randomise(model: torch.nn.Module, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * scale)


def outputs_and_gradients(form: Any, model: SparseAttentiveMemory, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Return the output, then the gradients of inputs and parameters of a loss that no symmetry hides."""
    output = form(*inputs)
    weights = torch.cos(torch.arange(output.numel(), dtype=output.dtype)).view_as(output)
    keys, _, targets, match = inputs
    wanted = [keys, targets, *([] if match is None else [match]), *model.parameters()]
    gradients = torch.autograd.grad((output * weights).sum(), wanted)
    return [output, *gradients]


def assert_equal(model: SparseAttentiveMemory, inputs: tuple[Any, ...], tolerance: float) -> None:
    factored = outputs_and_gradients(model, model, inputs)
    literal = outputs_and_gradients(lambda *given: literal_sam(model, *given), model, inputs)
    for one, other in zip(factored, literal, strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.long
@given(
    options=OPTIONS,
    sizes=SIZES,
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.3, 1.0, 3.0]),
    matched=st.booleans(),
    together=st.booleans(),
)
@settings(max_examples=100)
def test_factored_equals_literal_in_double_precision(
    options: dict[str, Any], sizes: tuple[int, int, int, int], seed: int, scale: float, matched: bool, together: bool
) -> None:
    """User by user, as on a CPU, and all together, as where there is neither a CPU nor a kernel for the GPU."""
    # LayerNorm of one or two components is a step function: its gradient has no tight tolerance.
    width = max(sizes[3], 3) if options["normalise_readout"] else sizes[3]
    sizes = (*sizes[:3], width)
    model = SparseAttentiveMemory(width, Sam(**options)).double()
    randomise(model, seed + 1, scale)
    with pytest.MonkeyPatch.context() as patch:
        if together:
            patch.setattr(by_user, "usable", lambda _: False)
        assert_equal(model, random_inputs(sizes, seed, scale, torch.float64, matched), 1e-8)


@pytest.mark.parametrize("feedback", ["iter", "stk"])
@pytest.mark.parametrize("normalise", [True, False])
def test_factored_equals_literal_in_single_precision(feedback: Any, normalise: bool) -> None:
    torch.manual_seed(0)
    model = SparseAttentiveMemory(32, Sam(passes=3, feedback=feedback, normalise_readout=normalise, output="readouts"))
    keys, mask, targets, match = random_inputs((2, 10, 300, 32), 1, 0.5, torch.float32, True)
    with torch.no_grad():
        factored = model(keys, mask, targets, match)
        literal = literal_sam(model, keys, mask, targets, match)
    torch.testing.assert_close(factored, literal, rtol=1e-5, atol=1e-5)


def test_one_pass_is_what_one_computes_by_hand() -> None:
    model = SparseAttentiveMemory(
        1, Sam(attention_hidden=1, passes=1, normalise_readout=False, output="readouts")
    ).double()
    unit = model.units[0]
    state = {
        "first.weight": [[0.1, 0.2, 0.3, 0.4]],
        "first.bias": [0.5],
        "second.weight": [[2.0]],
        "second.bias": [-1.0],
    }
    unit.load_state_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in state.items()})
    q, keys, match = 0.7, [1.5, -2.0], [0.25, 0.0]
    expected = 0.0
    for k, bonus in zip(keys, match, strict=True):
        pre = 0.1 * (q - k) + 0.2 * q * k + 0.3 * (q - k) + 0.4 * q * k + 0.5
        hidden = torch.sigmoid(torch.tensor(pre, dtype=torch.float64))
        expected += float(torch.sigmoid(2.0 * hidden - 1.0 + bonus)) * k
    output = model(
        torch.tensor(keys, dtype=torch.float64).view(1, 2, 1),
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([[[q]]], dtype=torch.float64),
        torch.tensor(match, dtype=torch.float64).view(1, 1, 2),
    )
    assert output.shape == (1, 1, 3)
    assert output[0, 0, 0].item() == q
    assert output[0, 0, 1].item() == pytest.approx(expected, abs=1e-12)


def test_feedback_changes_what_leaves_and_one_pass_has_none() -> None:
    keys, mask, targets, _ = random_inputs((2, 3, 20, 4), 3, 1.0, torch.float32, False)
    outputs = {}
    for passes in (1, 2):
        for feedback in ("iter", "stk"):
            torch.manual_seed(0)
            model = SparseAttentiveMemory(4, Sam(passes=passes, feedback=feedback, output="readouts"))
            outputs[passes, feedback] = model(keys, mask, targets)
    torch.testing.assert_close(outputs[1, "iter"], outputs[1, "stk"], rtol=0, atol=0)
    assert not torch.allclose(outputs[2, "iter"], outputs[2, "stk"])
