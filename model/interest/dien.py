"""Deep Interest Evolution Network: how the interest in a candidate evolved over the newest behaviours."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.interest.base import ExtraLoss, InterestModel, Known
from model.interest.heads import masked_softmax
from model.interest.newest import Newest
from model.interest.options import Dien
from model.kernels import batch_invariant


class DeepInterestEvolution(InterestModel):
    """A GRU over the behaviours, the target's attention to its states, and a GRU that this attention gates.

    After DIEN (Zhou et al., AAAI 2019):

        h_t = GRU(k_t, h_{t−1})                            the interest extractor
        a_t = softmax_t(h_t · W q + match_t)               the attention
        s_t = (1 − a_t u_t) ⊙ s_{t−1} + a_t u_t ⊙ s̃_t      AUGRU, where u_t and s̃_t are those of a GRU on (h_t, s_{t−1})

    and [q, s_T] is returned. The auxiliary loss is the paper's as well: the log loss of σ(h_t · k_{t+1}) with label 1,
    and of σ(h_t · k) with label 0 for a behaviour k of another user.

    W starts as the identity, as in FuxiCTR's port. The released code differs from the paper: its AUGRU keeps
    (1 − a_t) u_t of the state, so that a state moves without any attention; it scores by a network with hidden layers,
    and so does its auxiliary loss.

    Adapted here: match; only so many newest behaviours; the other behaviour of the auxiliary loss comes from the batch
    and is of about the same age, for keys contain the time: it would give random ones away.

    Args:
        d: width of keys and targets.
        options: how many behaviours, and the weight of the auxiliary loss.
    """

    def __init__(self, d: int, options: Dien) -> None:
        super().__init__()
        self.d = d
        self.recent = options.recent
        self.auxiliary = options.auxiliary
        self.extractor = nn.GRU(d, d, batch_first=True)
        self.bilinear = nn.Parameter(torch.eye(d))
        self.cell = nn.GRUCell(d, d)

    @property
    def width(self) -> int:
        """2d."""
        return 2 * self.d

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, 2d); see `InterestModel.forward`."""
        newest = Newest.of(mask, self.recent)
        states, _ = self.extractor(newest.keys(keys))
        present = torch.ones(targets.shape[:2], dtype=torch.bool, device=targets.device)
        return self._evolved(states, newest, targets, newest.match(match), present)

    def learn(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None, known: Known
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return (B, C, 2d), and the auxiliary loss; see `InterestModel.learn`."""
        newest = Newest.of(mask, self.recent)
        read = newest.keys(keys)
        states, _ = self.extractor(read)
        vectors = self._evolved(states, newest, targets, newest.match(match), known.target_mask)
        if not self.auxiliary:
            return vectors, None
        return (
            vectors,
            lambda _: (
                self.auxiliary
                * next_behaviour_loss(states, read, newest.mask, newest.known(known.items), newest.known(known.ages))
            ),
        )

    def _evolved(
        self, states: Tensor, newest: Newest, targets: Tensor, match: Tensor | None, present: Tensor
    ) -> Tensor:
        """Return (B, C, 2d); states that no present candidate needs are zero."""
        logits = batch_invariant.bmm(batch_invariant.matmul(targets, self.bilinear), states.mT)
        scores = masked_softmax(logits if match is None else logits + match, newest.mask.unsqueeze(1))
        last = self._evolve(states, scores[present], present.nonzero()[:, 0])
        spread = last.new_zeros(targets.shape).masked_scatter(present.unsqueeze(-1), last)
        return torch.cat([targets, spread], dim=-1)

    def _evolve(self, states: Tensor, scores: Tensor, users: Tensor) -> Tensor:
        """Return the last (N, d) states of the AUGRU for N candidates.

        Args:
            states: (B, T, d) of the extractor.
            scores: (N, T) attention of the candidates.
            users: (N,) to which user each belongs.
        """
        d, cell = self.d, self.cell
        # The input is the user's, whatever the candidate.
        inputs = functional.linear(states, cell.weight_ih, cell.bias_ih).unbind(dim=1)
        alone = len(states) == 1
        multiply = batch_invariant.multiplier(cell.weight_hh.T)
        state = scores.new_zeros(len(scores), d)
        for of_users, score in zip(inputs, scores.unsqueeze(-1).unbind(dim=1), strict=True):
            from_input = of_users if alone else of_users.index_select(0, users)
            from_state = multiply(state) + cell.bias_hh
            gates = batch_invariant.sigmoid(from_input[:, : 2 * d] + from_state[:, : 2 * d])
            reset, update = gates.chunk(2, dim=1)
            fresh = torch.addcmul(from_input[:, 2 * d :], reset, from_state[:, 2 * d :])
            fresh = batch_invariant.elementwise(torch.tanh, fresh)
            state = torch.addcmul(state, score * update, fresh - state)
        return state


def next_behaviour_loss(states: Tensor, keys: Tensor, mask: Tensor, items: Tensor, ages: Tensor) -> Tensor:
    """Return the mean log loss of telling each state's next behaviour from one of another user, a scalar.

    Pairs are drawn by a seed that the batch gives, so that a learner that goes on from a checkpoint draws the same.

    Args:
        states: (B, T, d), the state after each behaviour.
        keys: (B, T, d).
        mask: (B, T) bool.
        items: (B, T) keys of items; a state is not to be told that its next item is not the next.
        ages: (B, T).
    """
    B, T = mask.shape
    there = mask.flatten().nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(int(items.sum()) % 2**63)
    shuffled = there[torch.randperm(len(there), generator=generator).to(there.device)]
    by_age = shuffled[ages.flatten()[shuffled].argsort(stable=True)]
    others = torch.arange(B * T, device=mask.device)
    others[by_age] = by_age.roll(1)
    other, following = others.view(B, T)[:, 1:].flatten(), torch.arange(B * T, device=mask.device).view(B, T)[:, 1:]
    following = following.flatten()
    told = (
        mask[:, 1:].flatten() & (other // T != following // T) & (items.flatten()[other] != items.flatten()[following])
    )
    before, after, other = following[told] - 1, following[told], other[told]
    state, flat = states.flatten(0, 1)[before], keys.flatten(0, 1)
    right, wrong = (state * flat[after]).sum(dim=-1), (state * flat[other]).sum(dim=-1)
    losses = functional.softplus(-right) + functional.softplus(wrong)
    return losses.sum() / max(1, len(losses))
