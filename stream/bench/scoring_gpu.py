"""The GPU's side of `bench scoring`: the kernel against the factored form in torch, on the same card."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from model.interest import SparseAttentiveMemory, build_interest
from model.kernels import gpu
from model.network import build_head
from model.spec import ModelSpec
from stream.bench.harness.timing import Spread, alternate_for

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class OnGpu:
    """What the passes of one micro-batch take in one type of number.

    Attributes:
        dtype: its name.
        kernel: seconds with the kernel.
        torch: seconds in torch, in the same type.
        candidates: scored in that time.
        deviation: largest difference of a click probability from torch's in fp32, by a head that has not learned.
        sigmoids: of one micro-batch.
        operations: multiplications and additions of its products.
        bytes: that the kernel must read and write.
    """

    dtype: str
    kernel: Spread
    torch: Spread
    candidates: int
    deviation: float
    sigmoids: int
    operations: int
    bytes: int

    @property
    def millions(self) -> float:
        """Candidates scored with the kernel, in millions a second."""
        return 1e-6 * self.candidates / self.kernel.median

    def __str__(self) -> str:
        seconds = self.kernel.median
        return (
            f"GPU, {self.dtype}: kernel {1e3 * seconds:.2f} ms, torch {1e3 * self.torch.median:.2f} ms, "
            f"{self.millions:.2f} million candidates/s, {1e-9 * self.sigmoids / seconds:.0f} G sigmoids/s, "
            f"{1e-9 * self.operations / seconds:.0f} GFLOP/s, {1e-9 * self.bytes / seconds:.1f} GB/s; "
            f"probabilities differ from torch's in fp32 by {self.deviation:.1e} at most"
        )


@torch.inference_mode()
def measure(
    spec: ModelSpec, sizes: tuple[int, int, int], seconds: float, *, device: str = "cuda"
) -> dict[str, OnGpu] | None:
    """Measure `sizes` (B, C, L) of random keys in every type; None where the kernel cannot run."""
    if device == "cuda" and not (torch.cuda.is_available() and gpu.usable(torch.empty(1, device=device))):
        return None
    B, C, L = sizes
    torch.manual_seed(0)
    model = cast("SparseAttentiveMemory", build_interest(spec))
    head = build_head(model.width, spec.hidden).to(device)
    shapes = ((B, L, model.d), (B, C, model.d))
    keys, targets = (0.5 * torch.randn(*shape) for shape in shapes)
    match = (torch.rand(B, C, L) < 0.01).float()
    model = model.to(device)
    mask = torch.ones(B, L, dtype=torch.bool, device=device)
    exact: Tensor | None = None
    found = {}
    for name, dtype in DTYPES.items():
        model = model.to(dtype)
        inputs = [tensor.to(device, dtype) for tensor in (keys, targets, match)]

        def served(model: Any = model, inputs: list[Tensor] = inputs) -> Tensor:
            vectors: Tensor = model(inputs[0], mask, *inputs[1:])
            if vectors.is_cuda:
                torch.cuda.synchronize()
            return vectors

        def in_torch(served: Callable[[], Tensor] = served) -> Tensor:
            with patch.object(gpu, "usable", lambda _: False):
                return served()

        if exact is None:
            exact = head(in_torch()).sigmoid()
        deviation = (head(served().float()).sigmoid() - exact).abs().max()
        spreads = alternate_for({"kernel": served, "torch": in_torch}, seconds)
        passes, hidden = len(model.attentions), spec.attention_hidden
        pairs = passes * B * C * L
        moved = inputs[0].numel() + inputs[2].numel() + B * C * (hidden * (model.d + 1) + model.d)
        found[name] = OnGpu(
            dtype=name,
            kernel=spreads["kernel"],
            torch=spreads["torch"],
            candidates=B * C,
            deviation=float(deviation),
            sigmoids=pairs * (hidden + 1),
            operations=pairs * 2 * (hidden * (model.d + 1) + hidden + model.d),
            bytes=passes * moved * dtype.itemsize,
        )
    return found
