"""Sequential Search: a GRU over the newest behaviours, attention over all of them, and perhaps a policy beside both."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.interest.base import ExtraLoss, InterestModel, Known
from model.interest.multi_head import TargetAttention
from model.interest.newest import Newest
from model.interest.options import RnnSearch
from model.interest.packing import by_candidates
from model.peers import ALONE, Sums

_CLOSED = -1e4
"""A logit whose sigmoid is exactly zero."""
_NOISE = 0.3
"""Standard deviation of what is added to actions before the critic learns their value."""
_FOLLOWED = 0.01
"""How much of the way the targets follow the policy in a step."""
_WEIGHT = 0.1
"""Of the losses of actor and critic beside the log loss."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Sequences laid out one after another in rows.

    Attributes:
        rows: the row of each sequence.
        starts: the place of each in its row.
        count: how many rows there are.
    """

    rows: list[int]
    starts: list[int]
    count: int


def first_fit_decreasing(sizes: list[int], capacity: int) -> Packing:
    """Put sequences, longest first, each into the first row with room for it.

    There are never more than 11/9 as many rows as needed, and one (Johnson et al., SIAM J. Comput. 1974).

    Args:
        sizes: of the sequences, none above `capacity`.
        capacity: of a row.
    """
    used: list[int] = []
    rows, starts = [0] * len(sizes), [0] * len(sizes)
    for one in sorted(range(len(sizes)), key=lambda one: -sizes[one]):
        row = next((row for row, taken in enumerate(used) if taken + sizes[one] <= capacity), len(used))
        if row == len(used):
            used.append(0)
        rows[one], starts[one] = row, used[row]
        used[row] += sizes[one]
    return Packing(rows, starts, len(used))


class PackedGru(nn.Module):
    """A GRU over short sequences of which several share a row.

    Before each sequence is a separator, an input of its own kind that closes both gates and makes the fresh state zero:
    (r, z, n) = (0, 0, 0), so that the state is exactly zero after it, as at the start. No kernel needs to know.

    Args:
        d: width of inputs and states.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(d, d)

    def states(self, keys: Tensor, mask: Tensor) -> Tensor:
        """Return the (B, S, d) states after each of (B, S, d) behaviours, left-aligned; padded ones mean nothing.

        Args:
            keys: (B, S, d), zero where padded.
            mask: (B, S) bool.
        """
        _, S, d = keys.shape
        packing = first_fit_decreasing([count + 1 for count in mask.sum(dim=1).tolist()], S + 1)
        firsts = torch.tensor(packing.rows, device=keys.device) * (S + 1)
        firsts = firsts + torch.tensor(packing.starts, device=keys.device)
        places = firsts.unsqueeze(1) + 1 + torch.arange(S, device=keys.device)
        rows = keys.new_zeros(packing.count * (S + 1), d).index_copy(0, places[mask], keys[mask])
        separator = keys.new_zeros(len(rows), 1).index_fill(0, firsts, 1.0)
        inputs = torch.cat([rows, separator], dim=1).view(packing.count, S + 1, d + 1)
        cell = self.cell
        closing = torch.cat([cell.bias_ih.new_full((2 * d,), _CLOSED), -cell.bias_ih[2 * d :]]).unsqueeze(1)
        weights = [torch.cat([cell.weight_ih, closing], dim=1), cell.weight_hh, cell.bias_ih, cell.bias_hh]
        start = keys.new_zeros(1, packing.count, d)
        found, _ = torch.gru(inputs, start, weights, True, 1, 0.0, False, False, True)
        return found.flatten(0, 1)[places.clamp_max(len(rows) - 1)]


class OffPolicy(nn.Module):
    """An actor that says what a user wants next, and a critic that says what comes of it in the long run.

    Deep deterministic policy gradient (Lillicrap et al., ICLR 2016) on steps from one behaviour to the next. The state
    is the GRU's, the action a vector a whose products with items are their scores, the reward the pairwise error that
    it makes between the next behaviour and another one:

        reward = −softplus(−(a · e⁺ − a · e⁻)),  e = LayerNorm(k) without parameters, over √d
        critic:  (Q(h, a + noise) − reward(a + noise) − discount · Q'(h', μ'(h')))²
        actor:   −Q(h, μ(h)), with the critic held fixed

    μ' and Q' are targets: buffers that follow μ and Q slowly. Noise and other behaviours are drawn by a seed that the
    batch gives, so that a learner that goes on from a checkpoint draws the same.

    Args:
        d: width of states, items and actions.
        discount: of the next value.
    """

    def __init__(self, d: int, discount: float) -> None:
        super().__init__()
        self.discount = discount
        self.actor = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.Tanh())
        self.critic = nn.Sequential(
            nn.Linear(2 * d, 2 * d), nn.ReLU(), nn.Linear(2 * d, 2 * d), nn.ReLU(), nn.Linear(2 * d, 1)
        )
        for network in ("actor", "critic"):
            for name, parameter in getattr(self, network).named_parameters():
                self.register_buffer(_target(network, name), parameter.detach().clone())

    def losses(self, states: Tensor, keys: Tensor, mask: Tensor, seed: int) -> Tensor:
        """Return the mean of the critic's loss and the actor's over all steps, a scalar; 0 without a step.

        Args:
            states: (B, S, d) after each behaviour.
            keys: (B, S, d).
            mask: (B, S) bool.
            seed: of noise and of other behaviours.
        """
        steps = mask[:, 1:]
        before, after, wanted = states[:, :-1][steps], states[:, 1:][steps].detach(), keys[:, 1:][steps].detach()
        if not len(wanted):
            return states.new_zeros(())
        items = functional.layer_norm(wanted, wanted.shape[-1:]) / math.sqrt(wanted.shape[-1])
        generator = torch.Generator().manual_seed(seed)
        others = items[torch.randperm(len(items), generator=generator).to(items.device)]
        noise = torch.randn(items.shape, generator=generator).to(items)
        action = self.actor(before)
        tried = action.detach() + _NOISE * noise
        with torch.no_grad():
            next_action = self._held("actor", after, target=True)
            next_value = self._held("critic", torch.cat([after, next_action], dim=-1), target=True)
            reward = -functional.softplus(-(tried * (items - others)).sum(dim=-1, keepdim=True))
        value = self.critic(torch.cat([before.detach(), tried], dim=-1))
        expected = self._held("critic", torch.cat([before.detach(), action], dim=-1), target=False)
        return functional.mse_loss(value, reward + self.discount * next_value) - expected.mean()

    def follow(self) -> None:
        """Move the targets a little towards what they follow."""
        for network in ("actor", "critic"):
            for name, parameter in getattr(self, network).named_parameters():
                self.get_buffer(_target(network, name)).lerp_(parameter, _FOLLOWED)

    def _held(self, network: str, inputs: Tensor, *, target: bool) -> Tensor:
        """Return what a network or its target makes of inputs, without gradients of its parameters."""
        module: nn.Module = getattr(self, network)
        held = {
            name: self.get_buffer(_target(network, name)) if target else parameter.detach()
            for name, parameter in module.named_parameters()
        }
        found: Tensor = torch.func.functional_call(module, held, (inputs,))
        return found


class SequentialSearch(InterestModel):
    """h = GRU over the newest behaviours, r = attention of the target over all; returns [q, h, r, q ⊙ h].

    After Sequential Search with Off-Policy Reinforcement Learning (Miao et al., arXiv 2202.00245), by its abstract: a
    recurrent network over short-term interactions, attention over long-term ones, short sequences of a batch packed
    into the rows of one recurrent pass by a greedy knapsack, and a pairwise deterministic policy gradient. The knapsack
    is `first_fit_decreasing`, the policy `OffPolicy`; sizes and forms are chosen here, the text was not at hand.

    With the policy, q ⊙ μ(h) is returned as well: the scores that the action gives.

    Adapted here: both parts read the same keys, where the paper's long one reads items alone; match is added to the
    attention; h is normalised. The policy learns on behaviours, where the paper has sessions of searches.

    Args:
        d: width of keys and targets.
        options: how many behaviours are new, heads, and the policy.
    """

    def __init__(self, d: int, options: RnnSearch) -> None:
        super().__init__()
        self.d = d
        self.recent = options.short
        self.input_norm = nn.LayerNorm(d)
        self.gru = PackedGru(d)
        self.norm = nn.LayerNorm(d)
        self.attention = TargetAttention(d, options.heads)
        self.policy = OffPolicy(d, options.discount) if options.off_policy else None

    @property
    def width(self) -> int:
        """4d, or 5d with the policy."""
        return (4 if self.policy is None else 5) * self.d

    @property
    def observes(self) -> bool:
        """Whether there is a policy."""
        return self.policy is not None

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, width); see `InterestModel.forward`."""
        newest = Newest.of(mask, self.recent)
        return self._readout(_last(self._states(keys, newest), newest), keys, mask, targets, match)

    def learn(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None, known: Known
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return (B, C, width), and the losses of the policy if there is one; see `InterestModel.learn`."""
        newest = Newest.of(mask, self.recent)
        states = self._states(keys, newest)
        last = _last(states, newest)

        def readout(users: slice, c: int) -> Tensor:
            of_users = None if match is None else match[users, :c]
            return self._readout(last[users], keys[users], mask[users], targets[users, :c], of_users)

        vectors = by_candidates(readout, known.target_mask)
        if self.policy is None:
            return vectors, None
        policy, seed = self.policy, int(known.items.sum()) % 2**63
        return vectors, lambda _: _WEIGHT * policy.losses(states, newest.keys(keys), newest.mask, seed)

    def observe(self, keys: Tensor, mask: Tensor, sums: Sums = ALONE) -> None:  # noqa: ARG002
        """Have the targets of the policy follow."""
        if self.policy is not None:
            self.policy.follow()

    def _states(self, keys: Tensor, newest: Newest) -> Tensor:
        read = newest.keys(keys)
        return self.gru.states(self.input_norm(read).masked_fill(~newest.mask.unsqueeze(-1), 0.0), newest.mask)

    def _readout(self, state: Tensor, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None) -> Tensor:
        short = self.norm(state)
        long = self.attention(targets, keys, mask, match)
        parts = [targets, short.expand_as(targets), long, targets * short]
        if self.policy is not None:
            parts.append(targets * self.policy.actor(state))
        return torch.cat(parts, dim=-1)


def _last(states: Tensor, newest: Newest) -> Tensor:
    """Return the (B, 1, d) states after the newest behaviour; zero without any."""
    last = newest.mask & (newest.ranks == 0)
    return states.where(last.unsqueeze(-1), 0.0).sum(dim=1, keepdim=True)


def _target(network: str, name: str) -> str:
    """Return the name of the buffer that follows a parameter."""
    return f"target_{network}_{name.replace('.', '_')}"
