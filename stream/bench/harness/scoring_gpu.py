"""The GPU part of `bench scoring`: the kernel against the factored form in torch, on the same GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from model.interest.base import build_interest
from model.interest.sam import SparseAttentiveMemory
from model.kernels import gpu
from model.network import build_head
from model.spec import ModelSpec
from stream.bench.harness.timing import Summary, time_alternately_for

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class GpuTiming:
    """Timing of the attention of one micro-batch in one dtype.

    Attributes:
        dtype: its name.
        kernel: seconds with the kernel.
        torch: seconds in torch, in the same dtype.
        candidates: candidates in the micro-batch.
        deviation: largest difference of a click probability from torch in fp32, with an untrained head.
        sigmoids: sigmoids of the micro-batch.
        operations: floating-point operations of its matrix products.
        bytes: bytes that the kernel must read and write.
    """

    dtype: str
    kernel: Summary
    torch: Summary
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
            f"probabilities differ from torch in fp32 by {self.deviation:.1e} at most"
        )


@torch.inference_mode()
def measure(
    spec: ModelSpec, sizes: tuple[int, int, int], seconds: float, *, device: str = "cuda"
) -> dict[str, GpuTiming] | None:
    """Measure `sizes` (B, C, L) of random keys in every dtype; None where the kernel cannot run."""
    if device == "cuda" and not (torch.cuda.is_available() and gpu.usable(torch.empty(1, device=device))):
        return None
    B, C, L = sizes
    torch.manual_seed(0)
    model = cast("SparseAttentiveMemory", build_interest(spec.width, spec.interest))
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
        summaries = time_alternately_for({"kernel": served, "torch": in_torch}, seconds)
        passes, hidden = model.passes, model.units[0].second.in_features
        pairs = passes * B * C * L
        moved = inputs[0].numel() + inputs[2].numel() + B * C * (hidden * (model.d + 1) + model.d)
        found[name] = GpuTiming(
            dtype=name,
            kernel=summaries["kernel"],
            torch=summaries["torch"],
            candidates=B * C,
            deviation=float(deviation),
            sigmoids=pairs * (hidden + 1),
            operations=pairs * 2 * (hidden * (model.d + 1) + hidden + model.d),
            bytes=passes * moved * dtype.itemsize,
        )
    return found
