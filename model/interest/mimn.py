"""Multi-channel user Interest Memory Network: a memory that behaviours write one by one, and candidates read."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.interest.base import ExtraLoss, InterestModel, Known
from model.interest.newest import Newest
from model.interest.options import Mimn
from model.kernels import batch_invariant

_LARGEST = 20.0
"""Head parameters are cut at it."""
_SHARPNESS = 2.0
_INITIAL_MEMORY = 1e-5


@dataclass(frozen=True, slots=True)
class Memory:
    """What a user's behaviours left.

    Attributes:
        slots: (B, m, d).
        state: (B, d) of the controller.
        read: (B, d) what was read last.
        added: (B, d) mean over the slots of all that was written to them.
        written: (B, m) mean weight with which a behaviour wrote each slot; zeros without behaviours.
    """

    slots: Tensor
    state: Tensor
    read: Tensor
    added: Tensor
    written: Tensor


class InterestMemory(InterestModel):
    """A neural Turing machine over the behaviours; candidates read its memory.

    After MIMN (Pi et al., KDD 2019, sec. 4), in the form of its released code. With a memory M of m slots, every
    behaviour x takes a step:

        h ← GRU([x, r], h)
        r_key, r_β, w_key, w_β, e, a = clip(W h + b, ±20)
        w(key, β) = softmax_i(2 (softplus(β) + 1) · ½ (cos(tanh key, K_i) + cos(tanh key, M_i)))
        r ← Σ_i w(r_key, r_β)_i M_i
        M ← M ⊙ (1 − w eᵀ) + w aᵀ,  w = w(w_key, w_β), e = σ(e), a = tanh(a)
        S ← S + sg(w) aᵀ

    where K is a learned table that tells the slots apart, and M starts at next to nothing. A candidate takes the first
    lines of such a step as if it were the next behaviour, and [q, o, q ⊙ LayerNorm(mean_i S_i)] is returned, with
    o = W_o [h, r] + b_o. What writes depends on no candidate.

    Adapted here: only so many newest behaviours; the LayerNorm, since S grows with the length; and the regulariser that
    has slots used alike is on the mean weights of a user rather than on their sums, without the released code's shifted
    and sharpened weights. Its memory induction unit, a GRU a slot, is left out: it is off there by default, and would
    double what is computed one after the other.

    Args:
        d: width of keys, targets and slots.
        options: how many behaviours and slots, and the weight of the regulariser.
    """

    initial: Tensor

    def __init__(self, d: int, options: Mimn) -> None:
        super().__init__()
        self.d = d
        self.recent = options.recent
        self.utilisation = options.utilisation
        self.cell = nn.GRUCell(2 * d, d)
        self.read_head = nn.Linear(d, d + 1)
        self.write_head = nn.Linear(d, 3 * d + 1)
        self.slot_keys = nn.Parameter(0.5 * torch.randn(options.slots, d))
        self.first_read = nn.Parameter(0.1 * torch.randn(d))
        self.out = nn.Linear(2 * d, d)
        self.norm = nn.LayerNorm(d)
        self.register_buffer("initial", _INITIAL_MEMORY * torch.randn(options.slots, d), persistent=False)

    @property
    def width(self) -> int:
        """3d."""
        return 3 * self.d

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,  # noqa: ARG002
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, 3d); see `InterestModel.forward`."""
        return self._answer(self.remember(keys, mask), targets)

    def learn(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None,  # noqa: ARG002
        known: Known,  # noqa: ARG002
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return (B, C, 3d), and how unequally slots are written; see `InterestModel.learn`."""
        memory = self.remember(keys, mask)
        vectors = self._answer(memory, targets)
        if not self.utilisation:
            return vectors, None
        return vectors, lambda _: self.utilisation * memory.written.var(dim=1, correction=0).mean()

    def remember(self, keys: Tensor, mask: Tensor) -> Memory:
        """Return what (B, L, d) keys leave."""
        newest = Newest.of(mask, self.recent)
        B, d = len(mask), self.d
        # The part of the controller's input that is known beforehand.
        inputs = functional.linear(newest.keys(keys), self.cell.weight_ih[:, :d], self.cell.bias_ih).unbind(dim=1)
        from_read, from_state = self.cell.weight_ih[:, d:].T, self.cell.weight_hh.T
        heads = torch.cat([self.read_head.weight, self.write_head.weight]).T
        bias = torch.cat([self.read_head.bias, self.write_head.bias])
        slot_keys = self._slot_keys()
        slots, read = self.initial.expand(B, -1, -1), self.first_read.tanh().expand(B, -1)
        state = slots.new_zeros(B, d)
        full = bool(newest.mask.all())
        weights, additions = [], []
        for of_behaviour, there in zip(inputs, newest.mask.unsqueeze(-1).unbind(dim=1), strict=True):
            from_input = torch.addmm(of_behaviour, read, from_read)
            of_state = torch.addmm(self.cell.bias_hh, state, from_state)
            new_state = _gated(from_input, of_state, state)
            parameters = torch.addmm(bias, new_state, heads).clamp(-_LARGEST, _LARGEST)
            read_head, write_head, erase, add = torch.split(parameters, [d + 1, d + 1, d, d], dim=1)
            both = torch.stack([read_head, write_head], dim=1)
            nearness = torch.bmm(_unit(both[..., :-1].tanh()), (slot_keys + _unit(slots)).mT)
            found = _addressed(nearness, functional.softplus(both[..., -1:]))
            new_read, weight = torch.bmm(found[:, :1], slots).squeeze(1), found[:, 1:].mT
            add = add.tanh().unsqueeze(1)
            if not full:
                weight = weight * there.unsqueeze(1)
                new_state, new_read = new_state.where(there, state), new_read.where(there, read)
            slots = torch.addcmul(slots, weight, add - erase.sigmoid().unsqueeze(1) * slots)
            state, read = new_state, new_read
            weights.append(weight)
            additions.append(add)
        all_weights, all_additions = torch.cat(weights, dim=2), torch.cat(additions, dim=1)
        added = torch.bmm(all_weights.detach().mean(dim=1, keepdim=True), all_additions).squeeze(1)
        written = all_weights.sum(dim=2) / newest.mask.sum(dim=1, keepdim=True).clamp_min(1)
        return Memory(slots, state, read, added, written)

    def _answer(self, memory: Memory, targets: Tensor) -> Tensor:
        B, C, d = targets.shape
        read, state = (x.unsqueeze(1).expand(B, C, d) for x in (memory.read, memory.state))
        given = torch.cat([targets, read], dim=-1)
        asked = batch_invariant.gru(self.cell, given.flatten(0, 1), state.flatten(0, 1)).view(B, C, d)
        head = batch_invariant.linear(self.read_head, asked).clamp(-_LARGEST, _LARGEST)
        keys = _unit(batch_invariant.elementwise(torch.tanh, head[..., :-1]))
        nearness = batch_invariant.bmm(keys, (self._slot_keys() + _unit(memory.slots)).mT)
        softplus = batch_invariant.elementwise(torch.log1p, batch_invariant.elementwise(torch.exp, head[..., -1:]))
        found = batch_invariant.bmm(_addressed(nearness, softplus), memory.slots)
        answer = batch_invariant.linear(self.out, torch.cat([asked, found], dim=-1))
        return torch.cat([targets, answer, targets * self.norm(memory.added).unsqueeze(1)], dim=-1)

    def _slot_keys(self) -> Tensor:
        return _unit(self.slot_keys.tanh())


def _gated(from_input: Tensor, from_state: Tensor, state: Tensor) -> Tensor:
    """Return the next (B, d) state of a GRU, given the (B, 3d) parts of its gates."""
    d = state.shape[1]
    reset, kept = torch.sigmoid(from_input[:, : 2 * d] + from_state[:, : 2 * d]).chunk(2, dim=1)
    fresh = torch.tanh(torch.addcmul(from_input[:, 2 * d :], reset, from_state[:, 2 * d :]))
    return torch.lerp(fresh, state, kept)


def _addressed(nearness: Tensor, sharpness: Tensor) -> Tensor:
    """Return the (B, N, m) weights of slots.

    Args:
        nearness: (B, N, m) sums of a key's cosines with the two vectors of each slot.
        sharpness: (B, N, 1), after the softplus.
    """
    return torch.softmax(_SHARPNESS * (1 + sharpness) * nearness / 2, dim=-1)


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=-1)
