"""Two-stage Interest Network: one relevance for search and attention."""

import torch
from torch import Tensor, nn

from model.batch import GAP_BUCKETS
from model.interest.base import InterestModel, Known
from model.interest.options import Twin
from model.interest.retrieval import Found, RetrievedAttention, normed_rows
from model.kernels import batch_invariant

_ACTIONS = 64
"""Rows of the table of actions, shared by all action keys."""
_FEATURE_DIM = 8
"""Width of a cross feature's embedding, as in the paper."""


class TwoStageInterest(InterestModel):
    """r = attention over the K behaviours that are most relevant to its heads; returns [q, r, q ⊙ r].

    In head h, with the action's and the age's embeddings c_j of a behaviour, the relevance of behaviour l is

        α_l = (W_q n(q)) · (W_k n(k_l)) / √w + Σ_j β_j · c_j,l + match_l

    The search goes down the heads' rankings side by side, the first of each, the second of each, and so on, to K
    different behaviours. The attention is the softmax of the same α over these, see `RetrievedAttention`.

    After TWIN (Chang et al., KDD 2023): a behaviour's inherent features are compared with the candidate, and each
    feature of user and item together is compressed into one number that is added; search and attention share all
    weights; 100 behaviours, embeddings of 8 numbers, heads in turn. β_j here is the paper's product of two factors.

    Adapted here: cross features are a behaviour's action and age and, by match, whether its item and category are the
    candidate's; action and age are in the keys too. W_q and W_k start as one orthogonal matrix, else the first searches
    find at random; keys are normalised; 2 heads, where the paper has 4 of a wider embedding.

    Args:
        d: width of keys and targets.
        options: K and heads.
    """

    def __init__(self, d: int, options: Twin) -> None:
        super().__init__()
        self.d = d
        self.retrieved = options.retrieved
        self.attention = RetrievedAttention(d, options.heads)
        self.actions, self.ages = (nn.Embedding(rows, _FEATURE_DIM) for rows in (_ACTIONS, GAP_BUCKETS))
        self.compressed = nn.Linear(2 * _FEATURE_DIM, options.heads, bias=False)
        for table in (self.actions, self.ages):
            nn.init.zeros_(table.weight)

    @property
    def width(self) -> int:
        """3d."""
        return 3 * self.d

    def forward(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None = None, known: Known | None = None
    ) -> Tensor:
        """Return (B, C, 3d); see `InterestModel.forward`."""
        assert known is not None
        rows = normed_rows(keys, mask)
        relevance = self.relevance(rows, targets, match, known)
        found = in_turn(relevance, mask, self.retrieved)
        places = found.places.unsqueeze(2).expand(-1, -1, relevance.shape[2], -1)
        readout = self.attention.read(relevance.gather(3, places), found.rows(rows).flatten(0, 1), found)
        return torch.cat([targets, readout, targets * readout], dim=-1)

    def relevance(self, rows: Tensor, targets: Tensor, match: Tensor | None, known: Known) -> Tensor:
        """Return (B, C, heads, L): how relevant a behaviour is to a candidate in each head."""
        queries = self.attention.queries(targets)
        products = batch_invariant.bmm(queries.flatten(1, 2), rows.mT).view(*queries.shape[:3], -1)
        features = torch.cat([self.actions(known.actions % _ACTIONS), self.ages(known.ages)], dim=-1)
        relevance: Tensor = products + self.compressed(features).mT.unsqueeze(1)
        return relevance if match is None else relevance + match.unsqueeze(2)


def in_turn(relevance: Tensor, mask: Tensor, count: int) -> Found:
    """Return the first behaviours that one meets going down the rankings of all heads side by side.

    Args:
        relevance: (B, C, heads, L).
        mask: (B, L) bool.
        count: of different behaviours.
    """
    B, C, heads, L = relevance.shape
    # Even if all heads agree, none is followed deeper than that.
    of_heads = Found.highest(relevance.flatten(1, 2), mask.unsqueeze(1), count)
    places, there = (each.view(B, C, heads, -1).mT.flatten(2) for each in (of_heads.places, of_heads.there))
    turns = torch.arange(places.shape[-1], device=places.device).expand_as(places)
    first_met = places.new_full((B, C, L), places.shape[-1]).scatter_reduce(2, places, turns, "amin")
    found = Found.highest(-turns.float(), there & (first_met.gather(2, places) == turns), min(count, L))
    return Found(places.gather(2, found.places), found.there)
