"""Batch-invariant forms of torch's layers for serving: a row's result is the same to the bit in every batch.

Two things in torch make equal rows unequal in the last bits. A matrix product adds in an order that depends on its
shape and on the row's place in it: of BLAS nothing can be relied on here. So factors are rounded to a grid so coarse
that float64 holds every partial sum without rounding (as Ozaki et al. split products, Numerical Algorithms 2012): in
any order, the sum is the same. And a loop over a tensor treats what does not fill a vector by other instructions: so
functions see whole vectors only. The grid is about as fine as float32.

A caller that wants gradients, or another type than float32 on a CPU, gets torch's own layers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

VECTOR_MULTIPLE = 64
"""Tensors are padded to a multiple of this: whole vectors of every instruction set, unrolled as torch does."""

_EXPONENT = 0x7FF0_0000_0000_0000
"""The bits of a float64 that hold its exponent: alone, they are a power of two."""

_SERIAL = 16_384
"""Elements that torch never divides among threads, since their parts might not be whole vectors."""


def usable(x: Tensor) -> bool:
    """Return whether such rows are computed here now; there are no gradients."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()


def padded_size(size: int) -> int:
    """Return the least multiple of `VECTOR_MULTIPLE` that is not below `size`."""
    return -(-size // VECTOR_MULTIPLE) * VECTOR_MULTIPLE


def on_grid(x: Tensor, dim: int, terms: int) -> Tensor:
    """Return x in float64, rounded so that a product over `dim` with another such tensor adds up without rounding.

    Args:
        x: float32 or float64. What is not finite makes its whole slice NaN.
        dim: the dimension that the product sums over; what is rounded, and how, depends on its slice of x alone.
        terms: size of that dimension.
    """
    # Integers below 2^bits: `terms` products of two of them stay within 2^53.
    bits = (53 - (terms - 1).bit_length()) // 2
    largest = x.abs().amax(dim, keepdim=True).double()
    power = (largest.view(torch.int64) & _EXPONENT).view(torch.float64)
    # All elements are below 2 · power. Added to this, they lose what is smaller than 2 · power / 2^bits.
    shift = power * (1.5 * 2.0 ** (53 - bits))
    return (x + shift).sub_(shift)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return the (M, N) float32 product of (M, K) and (K, N)."""
    terms = len(right)
    return torch.mm(on_grid(left, 1, terms), on_grid(right, 0, terms)).float()


def matmul(x: Tensor, weight: Tensor) -> Tensor:
    """Return the (…, N) product of (…, K) and (K, N)."""
    if not usable(x):
        return x @ weight
    return product(x.flatten(0, -2), weight).view(*x.shape[:-1], weight.shape[1])


def multiplier(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what makes (M, N) products of (M, K) and this (K, N), for loops: the weight is made ready once."""
    if not usable(weight):
        return lambda x: x @ weight
    terms = len(weight)
    ready = on_grid(weight, 0, terms)
    return lambda x: torch.mm(on_grid(x, 1, terms), ready).float()


def bmm(left: Tensor, right: Tensor) -> Tensor:
    """Return the (B, M, N) products of (B, M, K) and (B, K, N)."""
    if not usable(left):
        return torch.bmm(left, right)
    terms = left.shape[2]
    return torch.bmm(on_grid(left, 2, terms), on_grid(right, 1, terms)).float()


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return `layer(x)`."""
    if not usable(x):
        out: Tensor = layer(x)
        return out
    return matmul(x, layer.weight.T) + layer.bias


def mlp(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Return `layers(x)`; layers other than linear ones compute row by row in torch as well."""
    for layer in layers:
        x = linear(layer, x) if isinstance(layer, nn.Linear) else layer(x)
    return x


def gru(cell: nn.GRUCell, x: Tensor, state: Tensor) -> Tensor:
    """Return `cell(x, state)` of (N, inputs) and (N, d)."""
    if not usable(x):
        out: Tensor = cell(x, state)
        return out
    d = state.shape[1]
    from_input = product(x, cell.weight_ih.T) + cell.bias_ih
    from_state = product(state, cell.weight_hh.T) + cell.bias_hh
    gates = sigmoid(from_input[:, : 2 * d] + from_state[:, : 2 * d])
    fresh = elementwise(torch.tanh, from_input[:, 2 * d :] + gates[:, :d] * from_state[:, 2 * d :])
    return fresh + gates[:, d:] * (state - fresh)


def sigmoid(x: Tensor) -> Tensor:
    """Return `torch.sigmoid(x)`."""
    return elementwise(torch.sigmoid, x)


def sigmoid_(x: Tensor) -> Tensor:
    """Do the same in place, to a contiguous tensor of whole vectors."""
    for part in _parts(x.view(-1)):
        part.sigmoid_()
    return x


def elementwise(function: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Return what an elementwise function makes of x, each element in a whole vector.

    Args:
        function: such as `torch.tanh`; takes `out`.
        x: of any shape.
    """
    if not usable(x):
        out: Tensor = function(x)
        return out
    flat = functional.pad(x.reshape(-1), (0, padded_size(x.numel()) - x.numel()))
    for part in _parts(flat):
        function(part, out=part)
    return flat[: x.numel()].view(x.shape)


def _parts(flat: Tensor) -> tuple[Tensor, ...]:
    return (flat,) if torch.get_num_threads() == 1 else torch.split(flat, _SERIAL)
