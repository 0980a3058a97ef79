"""Sequence adaptation: a policy chooses how many behaviours of a user another interest model reads."""

from collections import Counter

import torch
from torch import Tensor, nn

from model.interest.base import ExtraLoss, InterestModel, Known, Outcome, build_interest
from model.interest.multi_head import RowAttention
from model.interest.newest import Newest
from model.interest.options import Sar
from model.interest.packing import packed
from model.peers import ALONE, Sums

_CRITIC = 0.5
_ENTROPY = 0.01
"""Weights of the critic's loss and of the entropy beside the actor's loss."""
_RATE = 10.0
"""How much faster than the rest of the network lengths are learned: rewards differ little, and steps are few."""
_WEIGHT = 0.1
"""Of all three beside the log loss."""


class GruGate(nn.Module):
    """What stands in place of a residual connection in GTrXL (Parisotto et al., ICML 2020, sec. 3.2).

        r = σ(W_r y + U_r x),  z = σ(W_z y + U_z x − b),  x ← (1 − z) ⊙ x + z ⊙ tanh(W_g y + U_g (r ⊙ x))

    b starts at 2, so that at first little passes but x.

    Args:
        d: width of x and y.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.from_layer = nn.Linear(d, 3 * d, bias=False)
        self.from_input = nn.Linear(d, 2 * d, bias=False)
        self.from_reset = nn.Linear(d, d, bias=False)
        self.closed = nn.Parameter(torch.full((d,), 2.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (…, d) of what went into a layer and what came out of it."""
        reset_of_y, update_of_y, fresh_of_y = self.from_layer(y).chunk(3, dim=-1)
        reset_of_x, update_of_x = self.from_input(x).chunk(2, dim=-1)
        reset = (reset_of_y + reset_of_x).sigmoid()
        update = (update_of_y + update_of_x - self.closed).sigmoid()
        fresh = (fresh_of_y + self.from_reset(reset * x)).tanh()
        passed: Tensor = (1 - update) * x + update * fresh
        return passed


class LengthPolicy(nn.Module):
    """Actor and critic over one layer of a gated Transformer-XL.

    Of the layer only the newest position is computed, since nothing else of it is read:

        n_l = LayerNorm(k_l)
        x ← Gate(n_R, ReLU(Attention(n_R; n_1, …, n_R)))    with a learned bias a distance and head
        x ← Gate(x, ReLU(W_2 ReLU(W_1 LayerNorm(x))))
        s = [x, ln(1 + behaviours) / 7]

    The actor makes a logit a length of s, at first the larger the longer it is; the critic a value of s and of the
    share of clicks among what was shown. What was clicked does not follow from the length: it makes the critic a better
    baseline, and the gradient no less right.

    Args:
        d: width of behaviours.
        options: lengths, window and heads.
    """

    def __init__(self, d: int, options: Sar) -> None:
        super().__init__()
        self.window = options.window
        self.lengths: Tensor
        self.register_buffer("lengths", torch.tensor(options.lengths, dtype=torch.float32), persistent=False)
        self.input_norm = nn.LayerNorm(d)
        self.attention = RowAttention(d, options.heads)
        self.distances = nn.Parameter(torch.zeros(options.heads, options.window))
        self.attention_gate = GruGate(d)
        self.hidden_norm = nn.LayerNorm(d)
        self.hidden = nn.Linear(d, 2 * d)
        self.transform = nn.Linear(2 * d, d)
        self.transform_gate = GruGate(d)
        self.actor = nn.Linear(d + 1, len(options.lengths))
        self.critic = nn.Sequential(nn.Linear(d + 2, d), nn.ReLU(), nn.Linear(d, 1))
        nn.init.zeros_(self.actor.weight)
        with torch.no_grad():
            self.actor.bias.copy_(torch.linspace(0, 1, len(options.lengths)) / _RATE)

    def state(self, keys: Tensor, mask: Tensor) -> Tensor:
        """Return the (B, d + 1) states of users."""
        newest = Newest.of(mask, self.window)
        rows = newest.keys(keys)
        last = (newest.mask.sum(dim=1) - 1).clamp_min(0).view(-1, 1, 1).expand(-1, 1, rows.shape[-1])
        rows = self.input_norm(rows)
        x = rows.gather(1, last)
        bias = self.distances[:, newest.ranks].transpose(0, 1).unsqueeze(2)
        x = self.attention_gate(x, self.attention(x, rows, newest.mask.unsqueeze(1), bias).relu())
        x = self.transform_gate(x, self.transform(self.hidden(self.hidden_norm(x)).relu()).relu())
        counts = mask.sum(dim=1, keepdim=True).to(x.dtype)
        return torch.cat([x.squeeze(1), counts.log1p() / 7], dim=-1)

    def logits(self, state: Tensor, mask: Tensor) -> Tensor:
        """Return the (B, n) logits of the lengths; the least number where a shorter one already reads everything."""
        counts = mask.sum(dim=1, keepdim=True)
        shorter = torch.cat([self.lengths.new_zeros(1), self.lengths[:-1]])
        useless = (shorter >= counts) & (shorter > 0)
        found: Tensor = (_RATE * self.actor(state)).masked_fill(useless, torch.finfo(state.dtype).min)
        return found

    def value(self, state: Tensor, clicked: Tensor) -> Tensor:
        """Return the (B,) rewards that are expected, given the (B,) shares of clicks."""
        found: Tensor = self.critic(torch.cat([state, clicked.unsqueeze(1)], dim=-1))
        return found.squeeze(1)


class SequenceAdaptation(InterestModel):
    """An inner model that reads, of each user, as many newest behaviours as a policy says.

    After SAR (Antaris and Rafailidis, RecSys 2021, arXiv 2108.01442), by its abstract: an actor-critic whose state a
    gated Transformer-XL makes chooses the length, and recommender and critic have a joint loss. The published code does
    not implement it (its gates are layers of a GRU), so gates are those of GTrXL; see `LengthPolicy`. With the length
    l_u drawn from the policy π while learning, and the most probable one otherwise:

        reward  R_u = −(mean log loss of u's candidates) − cost · l_u / l_max
        losses  −(R − V) log π(l),  ½ (R − V)²,  −0.01 · entropy of π

    Returns what the inner model returns, which really is given the shorter sequence: users with the same length are
    read together.

    Adapted here: a request is an episode of one step, since the choice changes nothing that comes later, so there is no
    discount; reading costs something, without which longer is hardly ever worse; the policy looks at the newest
    behaviours alone, one segment, so that it costs less than it saves. Lengths are drawn by a seed that the batch
    gives, so that a learner that goes on from a checkpoint draws the same.

    Attributes:
        chosen: how many users were given each length by `forward`, since the start.

    Args:
        d: width of keys and targets.
        options: the inner model, lengths, and the policy.
    """

    def __init__(self, d: int, options: Sar) -> None:
        super().__init__()
        self.lengths = options.lengths
        self.cost = options.cost
        self.chosen: Counter[int] = Counter()
        inner = build_interest(d, options.inner)
        assert inner is not None
        self.inner = inner
        self.policy = LengthPolicy(d, options)

    @property
    def width(self) -> int:
        """That of the inner model."""
        return self.inner.width

    @property
    def observes(self) -> bool:
        """Whether the inner model does."""
        return self.inner.observes

    def forward(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None = None, known: Known | None = None
    ) -> Tensor:
        """Return (B, C, width); see `InterestModel.forward`."""
        choices = self.policy.logits(self.policy.state(keys, mask), mask).argmax(dim=-1)
        self.chosen.update(self.lengths[choice] for choice in choices.tolist())
        parts = []
        for users, length in self._groups(choices):
            of_users = None if known is None else _known(users, length, mask, known)
            parts.append(self.inner(*_newest(users, length, keys, mask, targets, match), of_users))
        return _together(choices, parts)

    def learn(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None, known: Known
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return (B, C, width), and the losses of actor, critic and the inner model; see `InterestModel.learn`."""
        state = self.policy.state(keys, mask)
        log_probabilities = self.policy.logits(state, mask).log_softmax(dim=-1)
        choices = _drawn(log_probabilities.detach().exp(), int(known.items.sum()) % 2**63)
        parts: list[Tensor] = []
        extras: list[tuple[Tensor, ExtraLoss]] = []
        for users, length in self._groups(choices):
            read = (*_newest(users, length, keys, mask, targets, match), _known(users, length, mask, known))
            if self.inner.adds_to_loss:
                vectors, extra = self.inner.learn(*read)
                if extra is not None:
                    extras.append((users, extra))
            else:
                vectors = packed(self.inner, *read)
            parts.append(vectors)

        def extra_loss(outcome: Outcome) -> Tensor:
            loss = _WEIGHT * self._policy_loss(outcome, choices, state, log_probabilities)
            for users, extra in extras:
                of_users = Outcome(outcome.logits[users], outcome.labels[users], outcome.mask[users])
                if of_users.mask.any():
                    loss = loss + extra(of_users) * (of_users.mask.sum() / outcome.mask.sum())
            return loss

        return _together(choices, parts), extra_loss

    def observe(self, keys: Tensor, mask: Tensor, sums: Sums = ALONE) -> None:
        """Have the inner model observe."""
        self.inner.observe(keys, mask, sums)

    def _policy_loss(self, outcome: Outcome, choices: Tensor, state: Tensor, log_probabilities: Tensor) -> Tensor:
        """Return the loss of actor and critic, a scalar: the mean over users to whom something was shown."""
        shown = outcome.mask.sum(dim=1)
        price = self.cost * self.policy.lengths[choices] / self.policy.lengths[-1]
        reward = -outcome.losses().sum(dim=1) / shown.clamp_min(1) - price
        clicked = ((outcome.labels > 0) & outcome.mask).sum(dim=1) / shown.clamp_min(1)
        value = self.policy.value(state, clicked.to(state.dtype))
        advantage = reward - value
        taken = log_probabilities.gather(1, choices.unsqueeze(1)).squeeze(1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
        losses = _CRITIC * advantage.square() - advantage.detach() * taken - _ENTROPY * entropy
        return losses[shown > 0].mean()

    def _groups(self, choices: Tensor) -> list[tuple[Tensor, int]]:
        """Return the users of each length that was chosen, and the length."""
        groups = [((choices == place).nonzero().squeeze(1), length) for place, length in enumerate(self.lengths)]
        return [(users, length) for users, length in groups if len(users)]


def _newest(
    users: Tensor, length: int, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return keys, mask, targets and match of some users, of their newest behaviours alone."""
    newest = Newest.of(mask[users], length)
    return newest.keys(keys[users]), newest.mask, targets[users], None if match is None else newest.match(match[users])


def _known(users: Tensor, length: int, mask: Tensor, known: Known) -> Known:
    """Return what is known of the same."""
    newest = Newest.of(mask[users], length)
    return Known(
        newest.known(known.items[users]),
        newest.known(known.categories[users]),
        newest.known(known.actions[users]),
        newest.known(known.ages[users]),
        known.target_items[users],
        known.target_categories[users],
        known.target_mask[users],
    )


def _together(choices: Tensor, parts: list[Tensor]) -> Tensor:
    """Return the vectors of all users in their order, from those of the users of each length."""
    return torch.cat(parts)[choices.argsort(stable=True).argsort()]


def _drawn(probabilities: Tensor, seed: int) -> Tensor:
    """Return (B,) places, each drawn from its row of (B, n) probabilities; never one with the probability 0."""
    uniform = torch.rand(len(probabilities), 1, generator=torch.Generator().manual_seed(seed)).to(probabilities)
    ends = probabilities.cumsum(dim=1)
    return (ends <= uniform * ends[:, -1:]).sum(dim=1)
