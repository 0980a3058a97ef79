"""TWIN-V2: attention over clusters of a user's behaviours, the larger ones weighing more."""

import torch
from torch import Tensor

from model.interest.base import InterestModel, Known, masked_keys
from model.interest.clusters import Clusters
from model.interest.multi_head import TargetAttention
from model.interest.options import TwinV2
from model.kernels import batch_invariant

_ROUNDS = 2
"""Rounds of k-means on each level of the hierarchy."""
_SUMMANDS = 2**17
"""Numbers of so many behaviours and dimensions are summed without rounding: no order changes a cluster."""

_TOGETHER = 8
"""Users at a time: what they need stays in the cache."""


class ClusterAttention(InterestModel):
    """Behaviours in clusters of similar keys, and target attention over the clusters.

    After TWIN-V2 (Si et al., CIKM 2024):

    - Hierarchical clustering with an adaptive k (algorithm 1): every cluster of more than γ behaviours is
      parted by k-means, and its parts again.
    - Cluster-aware attention: with x_c the mean key of n_c behaviours, r = Σ_c a_c W_v x_c in each head,
      a = softmax_c((W_q q) · (W_k x_c) / √w + ln n_c), so that larger clusters weigh more.

    and [q, r] is returned. That larger clusters gain is the paper's; ln n is how this model does it, since attention to
    clusters of equal keys then is attention to all behaviours. k = max(2, ⌊n^0.3⌋) parts of n behaviours, likewise.

    Adapted here: clusters follow from the sequence at each request; the paper makes them offline. It first groups
    behaviours by how much of a video was played; here an action moves a key. It takes categorical features of a cluster
    from the behaviour nearest to its centroid; embeddings have a mean. It attends to the best 100 clusters alone, and
    1000 behaviours make about as many. Match logits m of single behaviours come together as ln Σ exp(m) in place of
    ln n. Keys are normalised (`TargetAttention`).

    Args:
        d: width of keys and targets.
        options: γ and heads.
    """

    def __init__(self, d: int, options: TwinV2) -> None:
        super().__init__()
        self.d = d
        self.cluster_size = options.cluster_size
        self.attention = TargetAttention(d, options.heads)

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
        found = clustered(keys, mask, self.cluster_size)
        means = found.means(masked_keys(keys, mask))
        bonus = found.log_sizes(match, keys.dtype)
        return torch.cat([targets, self.attention(targets, means, found.sizes > 0, bonus)], dim=-1)


@torch.no_grad()
def clustered(keys: Tensor, mask: Tensor, largest: int) -> Clusters:
    """Return behaviours in clusters of similar keys, none of which has more than `largest`, unless all are alike.

    Nothing is drawn, and no sum depends on an order: the same sequence gives the same clusters, in any batch.

    Args:
        keys: (B, L, d).
        mask: (B, L) bool.
        largest: most behaviours of a cluster.
    """
    few = zip(torch.split(keys, _TOGETHER), torch.split(mask, _TOGETHER), strict=True)
    return _numbered(torch.cat([_labels(*each, largest) for each in few]), mask)


def _labels(keys: Tensor, mask: Tensor, largest: int) -> Tensor:
    """Return (B, L) int64, the same number for two behaviours of a user in the same cluster."""
    B, L, d = keys.shape
    # Exact sums take numbers on a common grid: one for all keys of a user.
    points = batch_invariant.on_grid(masked_keys(keys, mask).flatten(1), 1, _SUMMANDS).view(-1, d)
    labels, free = torch.zeros_like(mask, dtype=torch.int64).flatten(), 1
    # G groups of up to n behaviours each, those of one level of the hierarchy: first all of a user.
    places, there = torch.arange(B * L, device=keys.device).view(B, L), mask
    while len(places):
        parts, parted = _parted(points[places], there, largest)
        places, there = places[parted], there[parted]
        k = 1 + int(parts.max()) if len(parts) else 1
        children = (k * torch.arange(len(parts), device=parts.device).unsqueeze(1) + parts)[there]
        members = places[there]
        labels[members] = free + children
        free += k * len(parts)
        places, there = _grouped(members, children, largest)
    return labels.view(B, L)


def _parted(points: Tensor, mask: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Return the (P, n) parts of those (G, n, d) groups that are too large, by k-means, and the (G,) which those are.

    k parts begin as equal intervals of the coordinate in which a group extends furthest. So at least two have members,
    and since their means differ, k-means leaves it so: every level comes nearer to the end.
    """
    absent = ~mask.unsqueeze(-1)
    lowest = points.masked_fill(absent, torch.inf).amin(dim=1)
    extent, widest = (points.masked_fill(absent, -torch.inf).amax(dim=1) - lowest).max(dim=-1)
    sizes = mask.sum(dim=1)
    parted = (sizes > largest) & (extent > 0)
    points, mask, lowest, extent, widest = (each[parted] for each in (points, mask, lowest, extent, widest))
    k = sizes[parted].double().pow(0.3).long().clamp_min(2).unsqueeze(1)
    along = points.gather(2, widest[:, None, None].expand(-1, points.shape[1], 1)).squeeze(-1)
    shares = (along - lowest.gather(1, widest.unsqueeze(-1))) / extent.unsqueeze(-1)
    parts = (shares * k).long().clamp_min(0).minimum(k - 1)
    numbers = torch.arange(int(k.max()) if len(k) else 1, device=k.device).unsqueeze(-1)
    points = masked_keys(points, mask)
    for _ in range(_ROUNDS):
        members = ((parts.unsqueeze(1) == numbers) & mask.unsqueeze(1)).to(points.dtype)
        counts = members.sum(dim=-1)
        means = torch.bmm(members, points) / counts.clamp_min(1).unsqueeze(-1)
        means = batch_invariant.on_grid(means, -1, points.shape[-1])
        # Half the squared distance, less what is the same for all means.
        distances = means.square().sum(dim=-1).unsqueeze(1) / 2 - torch.bmm(points, means.mT)
        parts = distances.masked_fill_((counts == 0).unsqueeze(1), torch.inf).argmin(dim=-1)
    return parts, parted


def _grouped(members: Tensor, labels: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Return the (G, n) places of those (N,) members whose label more than `largest` have, and where there is one."""
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    large = counts > largest
    order = torch.arange(int(counts.max()) if large.any() else 0, device=labels.device)
    there = order < counts[large].unsqueeze(1)
    ranks = (starts[large].unsqueeze(1) + order).clamp_max(max(len(members) - 1, 0))
    return members[labels.argsort(stable=True)][ranks], there


def _numbered(labels: Tensor, mask: Tensor) -> Clusters:
    """Return clusters of (B, L) labels, numbered from 0 for each user in the order of their labels."""
    ordered, order = labels.masked_fill(~mask, torch.iinfo(labels.dtype).max).sort(dim=1)
    ranks = torch.cat([ordered[:, :1] * 0, (ordered.diff(dim=1) != 0).long().cumsum(dim=1)], dim=1)
    numbers = torch.zeros_like(ranks).scatter_(1, order, ranks)
    K = 1 + int(numbers.masked_fill(~mask, 0).max())
    return Clusters.of(numbers.masked_fill(~mask, K), K)
