"""The GPU's kernel against the literal reference: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from model.interest.din import DeepInterest
from model.interest.options import Din, Sam
from model.interest.sam import SparseAttentiveMemory
from model.interest.sam_reference import literal_sam
from model.kernels import gpu, native

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: pip install '.[gpu]'")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel chosen on a CPU as well."""
    monkeypatch.setattr(native, "library", lambda: None)
    if DEVICE == "cpu":
        monkeypatch.setattr(gpu, "usable", lambda _: not torch.is_grad_enabled())
        # The interpreter multiplies the bits of bfloat16 as integers.
        monkeypatch.setitem(gpu.PRODUCTS, torch.bfloat16, ("float32", "ieee"))


def inputs(B: int, C: int, L: int, d: int, *, matched: bool, seed: int = 0) -> tuple[Any, ...]:
    """Draw keys, a mask with empty, full and broken rows, targets and match logits."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(B, L, generator=generator) < torch.rand(B, 1, generator=generator) * 1.5 - 0.25
    mask[0] = True
    keys, targets = torch.randn(B, L, d, generator=generator), torch.randn(B, C, d, generator=generator)
    match = torch.randn(B, C, L, generator=generator) if matched else None
    return tuple(None if tensor is None else tensor.to(DEVICE) for tensor in (keys, mask, targets, match))


@pytest.mark.long
@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize(
    ("B", "C", "L", "d", "hidden"),
    [
        (1, 1, 1, 1, 1),
        (2, 1, gpu.TILE + 1, 32, 8),
        (3, 5, 2 * gpu.TILE, 16, 3),
        (2, 2 * gpu.CANDIDATES + 3, 7, 17, 8),
        (1, 20, 3 * gpu.TILE - 1, 40, 9),
    ],
)
def test_the_kernel_equals_the_literal_form(B: int, C: int, L: int, d: int, hidden: int, matched: bool) -> None:
    torch.manual_seed(B + C + L)
    model = SparseAttentiveMemory(
        d, Sam(passes=3, attention_hidden=hidden, normalise_readout=False, output="readouts")
    ).to(DEVICE)
    given = inputs(B, C, L, d, matched=matched)
    with torch.inference_mode():
        torch.testing.assert_close(model(*given), literal_sam(model, *given), rtol=3e-5, atol=3e-5)


def test_in_bfloat16_the_deviation_is_that_of_its_inputs() -> None:
    torch.manual_seed(0)
    model = DeepInterest(32, Din()).to(DEVICE)
    keys, mask, targets, match = inputs(2, 9, 100, 32, matched=True)
    with torch.inference_mode():
        coarse = model.bfloat16()(keys.bfloat16(), mask, targets.bfloat16(), match.bfloat16())
        rounded = (keys.bfloat16().float(), mask, targets.bfloat16().float(), match.bfloat16().float())
        exact = model.float()(*rounded)
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), exact, rtol=0.03, atol=0.03)


def test_what_lies_beyond_a_users_last_behaviour_is_not_read() -> None:
    torch.manual_seed(0)
    model = SparseAttentiveMemory(8, Sam(passes=3, output="readouts")).to(DEVICE)
    keys, mask, targets, match = inputs(2, 3, 70, 8, matched=True)
    mask[:] = torch.arange(70, device=DEVICE) < torch.tensor([[66], [0]], device=DEVICE)
    with torch.inference_mode():
        before = model(keys, mask, targets, match)
        keys[~mask] = torch.nan
        match[~mask.unsqueeze(1).expand_as(match)] = torch.nan
        assert torch.equal(model(keys, mask, targets, match), before)


@pytest.mark.parametrize("matched", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_readout_is_the_same_in_every_place_and_batch(matched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel adds to what; the interpreter multiplies tiles by BLAS, whose rows depend on their place."""
    if DEVICE == "cpu":
        monkeypatch.setattr(np, "matmul", row_by_row)
    h, d, L = 3, 12, gpu.TILE + 9
    keys, _, _, match = inputs(1, 1, L, d, matched=matched)
    weights, second, bias = (torch.randn(size, device=DEVICE) for size in ((1, h, 1, d + 1), (1, h), (1,)))
    mask = torch.ones(1, L, dtype=torch.bool, device=DEVICE)
    alone = gpu.GpuBehaviours(keys, mask).readouts(weights, second, bias, match)
    for B, C, more in ((1, 5, 0), (1, gpu.CANDIDATES + 1, 0), (2, 2 * gpu.CANDIDATES + 3, 0), (3, 4, gpu.TILE)):
        others = torch.randn(B, h, C, d + 1, device=DEVICE)
        wide, bonus = torch.randn(B, L + more, d, device=DEVICE), torch.randn(B, C, L + more, device=DEVICE)
        wide[-1, :L], there = keys[0], torch.ones(B, L + more, dtype=torch.bool, device=DEVICE)
        wide[-1, L:], there[-1, L:] = 0.0, False
        for place in range(C):
            first, added = others.clone(), bonus.clone()
            first[-1, :, place] = weights[0, :, 0]
            if match is not None:
                added[-1, place, :L] = match[0, 0]
            found = gpu.GpuBehaviours(wide, there).readouts(first, second, bias, added if matched else None)
            assert torch.equal(found[-1, place], alone[0, 0]), f"place {place} of {C}, {B} users"


def row_by_row(left: Any, right: Any, dtype: Any) -> Any:
    """Return the product of two matrices, each element of it added up in one order."""
    return (left[:, :, None] * right[None]).sum(axis=1, dtype=dtype)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from model.kernels.gpu_attention import attend, tl
kind, product, precision, capability = {!r}, tl.{}, {!r}, {}
places = dict.fromkeys(("keys", "weights", "affine", "second", "bias", "match", "out"), "*" + kind)
numbers = dict(HIDDEN=8, WIDTH=32, CANDIDATES={}, TILE={}, MATCHED=True, PRODUCT=product, PRECISION=precision)
signature = {{name: places.get(name, "*i32" if name == "ends" else "i32") for name in attend.arg_names}}
signature |= dict.fromkeys(numbers, "constexpr")
compiled = triton.compile(
    triton.compiler.ASTSource(attend, signature, numbers), target=GPUTarget("cuda", capability, 32)
)
assert compiled.asm["cubin"]
print(compiled.metadata.shared)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux only")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_it_compiles_for_gpus_that_are_not_there(kind: str, capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    product, precision = gpu.PRODUCTS[torch.float32 if kind == "fp32" else torch.bfloat16]
    program = COMPILE.format(kind, product, precision, capability, gpu.CANDIDATES, gpu.TILE)
    compiled = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=compiled, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 48 * 1024, "shared memory that every GPU has"


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")
def test_a_gpu_uses_it_without_gradients_only() -> None:
    keys = torch.zeros(1, 1, 2, device=DEVICE)
    assert not gpu.usable(keys)
    with torch.inference_mode():
        assert gpu.usable(keys)
        assert gpu.usable(keys.bfloat16())
        assert not gpu.usable(keys.double())


def test_a_cpu_does_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with torch.inference_mode():
        assert not gpu.usable(torch.zeros(1, 1, 2))
