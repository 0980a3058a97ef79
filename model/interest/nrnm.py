"""Non-local Recurrent Neural Memory: a recurrent network whose states a memory of blocks refines."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.interest.base import ExtraLoss, InterestModel, Known, masked_keys
from model.interest.multi_head import RowAttention, TargetAttention
from model.interest.options import Nrnm
from model.interest.packing import by_candidates


class BlockMemory(nn.Module):
    """The memory M, a few rows, after another block of an LSTM's states, and what it adds to the cell.

    With h the kept states of the block and p a projection of the block's inputs, as in the released code:

        t       = [h_1, …, h_s, p]
        t       ← LayerNorm(t + Attention(t)),  t ← LayerNorm(t + ReLU(W_2 ReLU(W_1 t)))
        i, f    = σ(W_p p + W_M tanh M + (0, 1))
        M       ← i ⊙ tanh(t_1, …, t_s) + f ⊙ M
        cell    ← cell + W_t (σ(W_g p + W_o [M]) ⊙ [M])

    where [M] is M's rows side by side.

    Args:
        d: width of states and inputs.
        options: steps of a block, and rows of the memory.
    """

    def __init__(self, d: int, options: Nrnm) -> None:
        super().__init__()
        flat = options.slots * d
        self.project = nn.Linear(options.stride * d, d)
        self.attention = RowAttention(d, options.heads)
        self.attended = nn.LayerNorm(d)
        self.hidden = nn.Linear(d, d)
        self.transform = nn.Linear(d, d)
        self.transformed = nn.LayerNorm(d)
        self.gates_of_inputs = nn.Linear(d, 2 * d)
        self.gates_of_memory = nn.Linear(d, 2 * d, bias=False)
        self.refinement_of_inputs = nn.Linear(d, flat)
        self.refinement_of_memory = nn.Linear(flat, flat, bias=False)
        self.refinement = nn.Linear(flat, d, bias=False)
        with torch.no_grad():
            self.gates_of_inputs.bias[d:] += 1.0

    def forward(self, inputs: Tensor, states: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next (B, s, d) memory, and the (B, d) addition to the cell.

        Args:
            inputs: (B, stride, d) of a whole block.
            states: (B, s, d) that are kept of it.
            memory: (B, s, d).
        """
        projected = self.project(inputs.flatten(1)).unsqueeze(1)
        tokens = torch.cat([states, projected], dim=1)
        everywhere = torch.ones(1, 1, tokens.shape[1], dtype=torch.bool, device=tokens.device)
        tokens = self.attended(tokens + self.attention(tokens, tokens, everywhere))
        tokens = self.transformed(tokens + self.transform(self.hidden(tokens).relu()).relu())
        gates = self.gates_of_inputs(projected) + self.gates_of_memory(memory.tanh())
        taken, kept = gates.sigmoid().chunk(2, dim=-1)
        memory = taken * tokens[:, :-1].tanh() + kept * memory
        flat = memory.flatten(1)
        opened = self.refinement_of_inputs(projected.squeeze(1)) + self.refinement_of_memory(flat)
        return memory, self.refinement(opened.sigmoid() * flat)


class NonLocalRecurrentMemory(InterestModel):
    """An LSTM over all behaviours, a memory after each block of it, and the target's attention to both.

    After NRNM (Fu et al., ICCV 2019; Pei et al., IJCV 2022), whose memory (`BlockMemory`) and LSTM are those of the
    released code; the paper's own equations were not at hand. There a block is 10 steps, of which 2 states are kept.

    Adapted here, since NRNM classifies a sequence and knows no candidates:

    - The target attends to behaviours, with match, and reads the LSTM's states there; it attends to the memories after
      all blocks; and the last state is handed on. Returns [q, readout of states, readout of memories, LayerNorm(h_L)].
    - The memory refines the cell once a block and not at every step, so that a block is one call of the LSTM. Blocks
      do not overlap; what is left over at the end makes none.
    - The inputs of a block are projected side by side, where the released code samples them at three distances. Its
      LayerNorm of query, key and value is left out, and its LayerNorms are over a row here, not over all of them. The
      two layers of the network in the memory are one layer used twice there.
    - No dropout and no zoneout: a stream is learned in one pass.

    Args:
        d: width of keys and targets.
        options: steps of a block, rows of the memory, heads.
    """

    def __init__(self, d: int, options: Nrnm) -> None:
        super().__init__()
        self.d = d
        self.stride = options.stride
        self.slots = options.slots
        self.lstm = nn.LSTM(d, d, batch_first=True)
        self.memory = BlockMemory(d, options)
        self.to_states = TargetAttention(d, options.heads)
        self.to_memories = TargetAttention(d, options.heads)
        self.norm = nn.LayerNorm(d)

    @property
    def width(self) -> int:
        """4d."""
        return 4 * self.d

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, 4d); see `InterestModel.forward`."""
        keys = masked_keys(keys, mask)
        return self._readout(keys, mask, *self._read(keys), targets, match)

    def learn(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None, known: Known
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return the same and no loss; the LSTM reads all users at once, which costs little more than one.

        See `InterestModel.learn`.
        """
        keys = masked_keys(keys, mask)
        states, memories = self._read(keys)

        def readout(users: slice, c: int) -> Tensor:
            of_users = None if match is None else match[users, :c]
            return self._readout(keys[users], mask[users], states[users], memories[users], targets[users, :c], of_users)

        return by_candidates(readout, known.target_mask), None

    def _readout(
        self, keys: Tensor, mask: Tensor, states: Tensor, memories: Tensor, targets: Tensor, match: Tensor | None
    ) -> Tensor:
        of_states = self.to_states(targets, keys, mask, match, values=states)
        whole = functional.pad(mask[:, self.stride - 1 :: self.stride], (1, 0))
        of_memories = self.to_memories(targets, memories, whole.repeat_interleave(self.slots, dim=1))
        newest = (mask.sum(dim=1) - 1).clamp_min(0).view(-1, 1, 1).expand(-1, 1, self.d)
        last = self.norm(masked_keys(states, mask).gather(1, newest)).expand_as(targets)
        return torch.cat([targets, of_states, of_memories, last], dim=-1)

    def _read(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, L, d) states, and the (B, (1 + ⌊L / stride⌋) s, d) memories before and after each whole block.

        What follows a user's last behaviour depends on padding that is zero, and is not read.
        """
        B, _, d = keys.shape
        memory = keys.new_zeros(B, self.slots, d)
        state: tuple[Tensor, Tensor] | None = None
        states, memories = [], [memory]
        each = self.stride // self.slots
        for block in torch.split(keys, self.stride, dim=1):
            hidden, (h, cell) = self.lstm(block, state)
            states.append(hidden)
            if block.shape[1] == self.stride:
                memory, addition = self.memory(block, hidden[:, each - 1 :: each], memory)
                memories.append(memory)
                cell = cell + addition
            state = h, cell
        return torch.cat(states, dim=1), torch.cat(memories, dim=1)
