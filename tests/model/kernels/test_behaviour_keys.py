"""The compiled keys of behaviours against torch's, forwards and backwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels import behaviour_keys, native
from model.kernels.behaviour_keys import Rows, embed_keys

built = pytest.mark.skipif(native.library() is None, reason="the kernel is not built, or this is no CPU with AVX2")


@built
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 60)),
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    more=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_compiled_keys_and_their_gradients_are_torchs(
    shape: tuple[int, int], widths: list[int], more: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def drawn(width: int) -> Rows:
        vectors = torch.randn(7, width, generator=generator, requires_grad=True)
        return Rows(vectors, torch.randint(0, 7, (shape[0] * shape[1],), generator=generator))

    beside, added = [drawn(width) for width in widths], [drawn(sum(widths)) for _ in range(more)]
    mask = torch.rand(shape, generator=generator) < 0.7
    upstream = [torch.randn(*size, sum(widths), generator=generator) for size in (shape, shape[:1])]

    def found() -> tuple[Tensor, ...]:
        keys, sums = embed_keys(beside, added, mask)
        loss = (keys * upstream[0]).sum() + (sums * upstream[1]).sum()
        return keys, sums, *torch.autograd.grad(loss, [each.vectors for each in [*beside, *added]])

    compiled = found()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(behaviour_keys, "usable", lambda _: False)
        in_torch = found()
    for one, other in zip(compiled, in_torch, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
