"""Dynamic Memory-based Attention Network: segments attend to each other, and are fused into a memory as they age."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.interest.base import ExtraLoss, InterestModel, Known, masked_keys
from model.interest.multi_head import RowAttention, TargetAttention
from model.interest.newest import Newest
from model.interest.options import Dman
from model.kernels import batch_invariant


@dataclass(frozen=True, slots=True)
class Memory:
    """What is left of older segments.

    Attributes:
        rows: (B, m, d).
        weights: (B, m) how many rows each of them stands for.
    """

    rows: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Read:
    """What a layer made of N segments of T behaviours.

    Attributes:
        short: (B, N, T, d) what behaviours found in their own segment and the one before.
        there: (B, N, T) bool, where there is a behaviour.
        memories: N + 1 of them: what each segment could read, and what is left after the last.
    """

    short: Tensor
    there: Tensor
    memories: list[Memory]


class Abstraction(nn.Module):
    """Fuses rows into m rows of memory by dynamic routing (Sabour et al., NIPS 2017).

    The old memory and n(S x) of all new rows x, n a LayerNorm, are the capsules e_j, which weigh w_j: 1 a new row, and
    of an old one how many it stands for. With v the old memory and b = 0 at first, several times:

        b_ji ← b_ji + e_j · v_i / √d,   c_j = w_j softmax_i(b_j),   v_i = √d squash(Σ_j c_ji e_j / √d)

    and then w_i = Σ_j c_ji. squash(s) = |s|² / (1 + |s|²) · s / |s|.

    Args:
        d: width of rows.
        slots: m.
        iterations: how often.
    """

    def __init__(self, d: int, slots: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.initial = nn.Parameter(torch.randn(slots, d))
        self.transform = nn.Linear(d, d, bias=False)
        self.norm = nn.LayerNorm(d)
        nn.init.eye_(self.transform.weight)

    def start(self, users: int) -> Memory:
        """Return the memory of users of whom nothing is remembered."""
        rows = self.initial.expand(users, -1, -1)
        return Memory(rows, rows.new_ones(rows.shape[:2]))

    def forward(self, memory: Memory, rows: Tensor, there: Tensor) -> Memory:
        """Return what the memory becomes with (B, T, d) more rows, where (B, T) there is one; without any, the same."""
        root = math.sqrt(rows.shape[-1])
        capsules = torch.cat([memory.rows, self.norm(self.transform(rows))], dim=1) / root
        weights = torch.cat([memory.weights, there.to(rows.dtype)], dim=1).unsqueeze(-1)
        fused, agreement, shares = memory.rows, capsules.new_zeros(()), weights
        for _ in range(self.iterations):
            agreement = agreement + torch.bmm(capsules, fused.mT)
            shares = weights * agreement.softmax(dim=-1)
            sums = torch.bmm(shares.mT, capsules)
            norms = sums.square().sum(dim=-1, keepdim=True)
            fused = root * sums * norms / ((1 + norms) * (norms + 1e-12).sqrt())
        any_there = there.any(dim=1)
        return Memory(
            fused.where(any_there[:, None, None], memory.rows),
            shares.sum(dim=1).where(any_there[:, None], memory.weights),
        )


class Layer(nn.Module):
    """What behaviours find in the newest two segments and in the memory, weighed against each other by a gate.

    Args:
        d: width of behaviours.
        options: heads, slots, iterations.
    """

    def __init__(self, d: int, options: Dman) -> None:
        super().__init__()
        self.short = RowAttention(d, options.heads)
        self.long = RowAttention(d, options.heads)
        self.gate = nn.Linear(2 * d, d)
        self.abstraction = Abstraction(d, options.slots, options.routing)
        self.mixed = nn.LayerNorm(d)
        self.hidden = nn.Linear(d, 2 * d)
        self.transform = nn.Linear(2 * d, d)
        self.transformed = nn.LayerNorm(d)

    def read(self, segments: Tensor, there: Tensor) -> Read:
        """Return what N segments, (B, N, T, d), find in each other, and the memories that come of it."""
        B, N, T, _ = segments.shape
        context = torch.cat([_shifted(segments), segments], dim=2)
        known = torch.cat([_shifted(there), there], dim=2)
        places = torch.arange(2 * T, device=segments.device)
        allowed = known.unsqueeze(2) & (places <= places[T:, None])
        short = self.short(segments.flatten(0, 1), context.flatten(0, 1), allowed.flatten(0, 1)).view_as(segments)
        memories = [self.abstraction.start(B)] * 2
        for n in range(1, N):
            memories.append(self.abstraction(memories[n], short[:, n - 1], there[:, n - 1]))
        return Read(short, there, memories)

    def forward(self, segments: Tensor, read: Read) -> Tensor:
        """Return the (B, n, T, d) states of the last n segments, which are given."""
        n = segments.shape[1]
        short = read.short[:, -n:]
        rows = torch.stack([memory.rows for memory in read.memories[-n - 1 : -1]], dim=1).flatten(0, 1)
        everywhere = torch.ones(1, 1, rows.shape[1], dtype=torch.bool, device=rows.device)
        long = self.long(segments.flatten(0, 1), rows, everywhere).view_as(short)
        gate = self.gate(torch.cat([short, long], dim=-1)).sigmoid()
        states = self.mixed(segments + gate * short + (1 - gate) * long)
        out: Tensor = self.transformed(states + self.transform(self.hidden(states).relu()))
        return out

    def reconstruction(self, read: Read) -> Tensor:
        """Return how much is lost where the memory stands for the segment that was fused into it last, a scalar.

        The mean square of Attention(H̃_n; H̃_{n−1}) − Attention(H̃_n; M_{n+1}) over behaviours and components, where
        M_{n+1} is fused from M_n and H̃_{n−1}, and the attention is the short one. Only the fusion has gradients.
        """
        if read.short.shape[1] < 2:
            return read.short.new_zeros(())
        short, there = read.short.detach(), read.there
        queries, rows, fused = short[:, 1:].flatten(0, 1), short[:, :-1].flatten(0, 1), there[:, :-1].flatten(0, 1)
        before = Memory(
            torch.stack([memory.rows for memory in read.memories[1:-1]], dim=1).detach().flatten(0, 1),
            torch.stack([memory.weights for memory in read.memories[1:-1]], dim=1).detach().flatten(0, 1),
        )
        after = self.abstraction(before, rows, fused)
        fixed = {name: parameter.detach() for name, parameter in self.short.named_parameters()}
        everywhere = torch.ones(1, 1, after.rows.shape[1], dtype=torch.bool, device=rows.device)
        meant = torch.func.functional_call(self.short, fixed, (queries, rows, fused.unsqueeze(1)))
        found = torch.func.functional_call(self.short, fixed, (queries, after.rows, everywhere))
        counted = there[:, 1:].flatten(0, 1) & fused.any(dim=1, keepdim=True)
        losses = (meant - found).square().mean(dim=-1) * counted
        mean: Tensor = losses.sum() / counted.sum().clamp_min(1)
        return mean


class DynamicMemoryAttention(InterestModel):
    """Short attention to two segments, long attention to a memory of all before, and the target's attention to both.

    After DMAN (Tan et al., AAAI 2021, arXiv 2102.09269), by its abstract and as it is described elsewhere; the text was
    not at hand. Of each segment n, newest last, in each layer:

        H̃_n = Attention(H_n; H_{n−1}, H_n), causal        short
        Ĥ_n = Attention(H_n; M_n)                         long
        G   = σ(W [H̃_n, Ĥ_n] + b)
        H'_n = LayerNorm(H_n + G ⊙ H̃_n + (1 − G) ⊙ Ĥ_n), and a feed-forward layer
        M_{n+1} = Abstraction(M_n, H̃_{n−1})

    so that a segment ages from what is seen one by one, over context, to memory. The reconstruction loss
    (`Layer.reconstruction`) trains the abstraction alone.

    Adapted here: every candidate attends to the states of the last segment, with match, and to the last layer's memory
    after it; a gate of the same form mixes the two: returns [q, r]. Segments are cut from the newest behaviour
    backwards, so the last is always whole, and gradients pass from one to the next, since all are read in one step.
    Behaviours are normalised once, their order is told by the time in their keys alone. In the abstraction, a row of
    memory weighs as much as all that it stands for, or old segments would be forgotten at a geometric rate, and routing
    starts at the old memory.

    Args:
        d: width of keys and targets.
        options: sizes, and the weight of the reconstruction loss.
    """

    def __init__(self, d: int, options: Dman) -> None:
        super().__init__()
        self.d = d
        self.segment = options.segment
        self.reconstruction = options.reconstruction
        self.norm = nn.LayerNorm(d)
        self.layers = nn.ModuleList(Layer(d, options) for _ in range(options.layers))
        self.to_segment = TargetAttention(d, options.heads)
        self.to_memory = TargetAttention(d, options.heads)
        self.gate = nn.Linear(2 * d, d)

    @property
    def width(self) -> int:
        """2d."""
        return 2 * self.d

    @property
    def adds_to_loss(self) -> bool:
        """Whether it is to reconstruct."""
        return self.reconstruction > 0

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, 2d); see `InterestModel.forward`."""
        return self._readout(*self._encoded(keys, mask), mask, targets, match)

    def learn(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None,
        known: Known,  # noqa: ARG002
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return (B, C, 2d), and the reconstruction loss; see `InterestModel.learn`."""
        states, reads = self._encoded(keys, mask)
        vectors = self._readout(states, reads, mask, targets, match)

        def extra(_: object) -> Tensor:
            losses = [layer.reconstruction(read) for layer, read in zip(self._layers(), reads, strict=True)]
            return self.reconstruction * torch.stack(losses).sum()

        return vectors, extra

    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def _encoded(self, keys: Tensor, mask: Tensor) -> tuple[Tensor, list[Read]]:
        """Return the (B, T, d) states of the last segment, and what each layer read."""
        segments, there = _segments(self.norm(masked_keys(keys, mask)), mask, self.segment)
        reads = []
        for layer in self._layers():
            read = layer.read(segments, there)
            reads.append(read)
            # Of the last layer, nothing but the last segment is read.
            segments = layer(segments if len(reads) < len(self.layers) else segments[:, -1:], read)
        return segments[:, -1], reads

    def _readout(
        self, states: Tensor, reads: list[Read], mask: Tensor, targets: Tensor, match: Tensor | None
    ) -> Tensor:
        newest = Newest.of(mask, self.segment)
        there = reads[-1].there[:, -1]
        # The states are right-aligned, and what `Newest` finds is left-aligned.
        places = torch.arange(newest.mask.shape[1], device=mask.device)
        places = places + (there.shape[1] - newest.mask.sum(dim=1, keepdim=True))
        states = states.gather(1, places.clamp_max(there.shape[1] - 1).unsqueeze(-1).expand(-1, -1, self.d))
        short = self.to_segment(targets, states, newest.mask, newest.match(match))
        memory = reads[-1].memories[-1].rows
        everywhere = torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)
        long = self.to_memory(targets, memory, everywhere)
        gate = batch_invariant.sigmoid(batch_invariant.linear(self.gate, torch.cat([short, long], dim=-1)))
        return torch.cat([targets, gate * short + (1 - gate) * long], dim=-1)


def _segments(rows: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return (B, N, T, d) rows and (B, N, T) where there is one, with each user's newest at the very end."""
    B, L, d = rows.shape
    count = -(-L // size)
    places = mask.sum(dim=1, keepdim=True) - count * size + torch.arange(count * size, device=rows.device)
    there = places >= 0
    found = masked_keys(rows.gather(1, places.clamp_min(0).unsqueeze(-1).expand(-1, -1, d)), there)
    return found.view(B, count, size, d), there.view(B, count, size)


def _shifted(segments: Tensor) -> Tensor:
    """Return of every segment the one before; nothing before the first."""
    return functional.pad(segments[:, :-1], [0, 0] * (segments.ndim - 2) + [1, 0])
