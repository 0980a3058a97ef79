"""The attention on a CPU while learning: user by user, each at its own length, with a backward written by hand.

Through autograd, every pass keeps the (C, h, L) hidden layer of every user until the backward, and reads and writes
memory for each small step of it. Here a user's hidden layer lies in one buffer that stays in the cache: the backward
computes it again, which costs less than fetching it, and nothing of size h · L outlives its user.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def usable(keys: Tensor) -> bool:
    """Return whether such keys are attended to here."""
    # What is exported (`model.export`) is plain torch, in which no length is a number.
    return keys.device.type == "cpu" and not torch.compiler.is_compiling()


def ends(mask: Tensor) -> list[int]:
    """Return, for each of B users, the length up to the last behaviour, from a (B, L) mask."""
    places = torch.arange(1, mask.shape[1] + 1)
    found: list[int] = (mask * places).amax(dim=1).tolist()
    return found


def readouts(
    keys: Tensor, ends: list[int], first: Tensor, second: Tensor, bias: Tensor, match: Tensor | None
) -> Tensor:
    """Return the (B, C, d) sums of behaviours by attention weight, differentiable once in every tensor.

    Args:
        keys: (B, L, d + 1), zero where padded, the last component 1.
        ends: of each user, how many behaviours are read.
        first: (B, h, C, d + 1) effective weights of layer 1.
        second: (1, h) weights of layer 2.
        bias: (1,) of layer 2.
        match: (B, C, L) addition to the attention logits.
    """
    result: Tensor = _Attention.apply(keys, ends, first, second, bias, match)  # type: ignore[no-untyped-call]
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        keys: Tensor,
        ends: list[int],
        first: Tensor,
        second: Tensor,
        bias: Tensor,
        match: Tensor | None,
    ) -> Tensor:
        B, h, C, width = first.shape
        out = first.new_empty(B, C, width - 1)
        first = first.contiguous()
        weights = [first.new_empty(C, end) for end in ends]
        buffer = first.new_empty(h * C * max(ends))
        for b, (end, weight) in enumerate(zip(ends, weights, strict=True)):
            k = keys[b, :end]
            hidden = _hidden(first[b].view(h * C, width), k, buffer)
            if match is None:
                weight.copy_(bias.expand(C, end))
            else:
                torch.add(match[b, :, :end], bias, out=weight)
            weight.view(1, -1).addmm_(second, hidden.view(h, -1)).sigmoid_()
            torch.mm(weight, k[:, :-1], out=out[b])
        ctx.save_for_backward(keys, first, second, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        keys, first, second, *weights = ctx.saved_tensors
        B, h, C, width = first.shape
        L = keys.shape[1]
        hidden_buffer, upstream_buffer = first.new_empty(2, h * C * L)
        logit_buffer = first.new_empty(C * L)
        d_keys, d_first, d_second = torch.empty_like(keys), torch.empty_like(first), torch.zeros_like(second)
        d_logits = first.new_zeros(B, C, L)
        for b, weight in enumerate(weights):
            end = weight.shape[1]
            k, w, g = keys[b, :end], first[b].view(h * C, width), gradient[b]
            hidden = _hidden(w, k, hidden_buffer)
            d_logit = logit_buffer[: C * end].view(C, end)
            torch.mm(g, k[:, :-1].T, out=d_logit)
            _sigmoid_backward(d_logit, weight, grad_input=d_logit)
            d_logits[b, :, :end] = d_logit
            flat = d_logit.view(1, -1)
            d_second.addmm_(flat, hidden.view(h, -1).T)
            d_hidden = torch.mul(second.T, flat, out=upstream_buffer[: h * C * end].view(h, -1)).view(h * C, end)
            d_pre = _sigmoid_backward(d_hidden, hidden, grad_input=d_hidden)
            torch.mm(d_pre, k, out=d_first[b].view(h * C, width))
            torch.mm(d_pre.T, w, out=d_keys[b, :end])
            d_keys[b, :end, :-1].addmm_(weight.T, g)
            d_keys[b, end:] = 0.0
        d_bias = d_logits.sum().view(1)
        return d_keys, None, d_first, d_second, d_bias, d_logits if ctx.needs_input_grad[5] else None


def _hidden(first: Tensor, keys: Tensor, buffer: Tensor) -> Tensor:
    """Return the (h · C, n) hidden layer of (h · C, d + 1) weights over (n, d + 1) keys, written into `buffer`."""
    hidden = buffer[: len(first) * len(keys)].view(len(first), len(keys))
    return torch.mm(first, keys.T, out=hidden).sigmoid_()
