"""TWIN-V2: what clusters are, that attention to them is attention to their behaviours, and its equations."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.interest.clusters import Clusters
from model.interest.options import TwinV2
from model.interest.twin_v2 import ClusterAttention, clustered
from tests.model.interest.drawn import drawn, normed, randomised

D = 6


def members(found: Clusters, user: int) -> list[list[int]]:
    """Return the places in each cluster of a user, the empty ones left out."""
    labels = found.labels[user].tolist()
    clusters = [[at for at, label in enumerate(labels) if label == k] for k in range(found.sizes.shape[1])]
    assert [len(each) for each in clusters] == found.sizes[user].tolist()
    return [each for each in clusters if each]


def in_groups(lengths: list[int], groups: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw keys near so many points; equal keys where there is no spread."""
    generator = torch.Generator().manual_seed(seed)
    L = max(lengths)
    centres = torch.randn(groups, D, generator=generator)
    keys = centres[torch.randint(groups, (len(lengths), L), generator=generator)]
    keys = keys + spread * torch.randn(keys.shape, generator=generator)
    return keys, torch.arange(L) < torch.tensor(lengths).unsqueeze(1)


@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=12).filter(any),
    groups=st.integers(1, 30),
    spread=st.sampled_from([0.0, 0.01, 1.0]),
    largest=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40)
def test_every_behaviour_is_in_one_cluster_none_of_which_is_too_large(
    lengths: list[int], groups: int, spread: float, largest: int, seed: int
) -> None:
    keys, mask = in_groups(lengths, groups, spread, seed)
    found = clustered(keys, mask, largest)
    for user, length in enumerate(lengths):
        clusters = members(found, user)
        assert sorted(place for each in clusters for place in each) == list(range(length))
        for each in clusters:
            alike = (keys[user, each] == keys[user, each[0]]).all()
            assert len(each) <= largest or alike


@given(lengths=st.lists(st.integers(1, 70), min_size=2, max_size=12), seed=st.integers(0, 2**32))
@settings(max_examples=15)
def test_a_users_clusters_are_the_same_in_any_batch(lengths: list[int], seed: int) -> None:
    keys, mask = in_groups(lengths, 9, 0.3, seed)
    together = clustered(keys.masked_fill(~mask.unsqueeze(-1), math.nan), mask, 5)
    for user, length in enumerate(lengths):
        alone = clustered(keys[user : user + 1, :length], mask[user : user + 1, :length], 5)
        assert members(together, user) == members(alone, 0)


def test_clusters_are_of_similar_keys() -> None:
    keys, mask = in_groups([200], 8, 0.01, 0)
    for each in members(clustered(keys, mask, 40), 0):
        assert (keys[0, each] - keys[0, each[0]]).norm(dim=-1).max() < 0.2, "of one group alone"


def test_more_behaviours_are_in_more_clusters() -> None:
    keys, mask = in_groups([5, 50, 500], 60, 0.1, 0)
    counts = (clustered(keys, mask, 10).sizes > 0).sum(dim=1).tolist()
    assert counts[0] == 1
    assert all(fewer < more for fewer, more in pairwise(counts))


def test_attention_to_clusters_of_equal_keys_is_attention_to_all_behaviours() -> None:
    torch.manual_seed(0)
    model = ClusterAttention(D, TwinV2(cluster_size=4))
    randomised(model)
    (keys, _), lengths = in_groups([40, 40, 40], 5, 0.0, 1), torch.tensor([40, 0, 17])
    keys, mask = keys.double(), torch.arange(40) < lengths.unsqueeze(1)
    targets = torch.randn(3, 4, D, dtype=torch.float64)
    by_behaviour = model.attention(targets, keys, mask)
    torch.testing.assert_close(model(keys, mask, targets)[..., D:], by_behaviour, rtol=1e-10, atol=1e-10)
    # And so it is with matches, if behaviours of one cluster match alike.
    match = torch.sin(7 * targets[:, :, :1] + 10 * keys[:, None, :, 0])
    by_behaviour = model.attention(targets, keys, mask, match)
    torch.testing.assert_close(model(keys, mask, targets, match)[..., D:], by_behaviour, rtol=1e-10, atol=1e-10)


def literal(model: ClusterAttention, keys: Tensor, found: list[list[int]], q: Tensor, match: Tensor) -> Tensor:
    """Return the readout of one candidate, given the places in each cluster."""
    attention, heads = model.attention, model.attention.heads
    if not found:
        return normed(torch.zeros(D, dtype=torch.float64), attention.norm)
    rows = [normed(keys[each].mean(dim=0), attention.row_norm) for each in found]
    bonuses = [torch.stack([match[at].exp() for at in each]).sum().log() for each in found]
    query = (attention.query.weight @ normed(q, attention.row_norm)).chunk(heads)
    parts = []
    for head in range(heads):
        scores = []
        for row, bonus in zip(rows, bonuses, strict=True):
            key = (attention.key.weight @ row).chunk(heads)[head]
            scores.append(query[head] @ key / math.sqrt(len(key)) + bonus)
        weights = torch.softmax(torch.stack(scores), 0)
        values = [(attention.value.weight @ row).chunk(heads)[head] for row in rows]
        parts.append(sum(w * v for w, v in zip(weights, values, strict=True)))
    return normed(attention.out.weight @ torch.cat(parts), attention.norm)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("matched", [False, True])
def test_it_computes_its_equations(heads: int, matched: bool) -> None:
    model = ClusterAttention(D, TwinV2(cluster_size=2, heads=heads))
    randomised(model)
    keys, mask, targets, match, _ = drawn(D)
    clusters = clustered(keys, mask, 2)
    output = model(keys, mask, targets, match if matched else None)
    for user in range(len(keys)):
        for c, q in enumerate(targets[user]):
            found = members(clusters, user)
            readout = literal(model, keys[user], found, q, match[user, c] if matched else 0 * match[user, c])
            expected = torch.cat([q, readout])
            torch.testing.assert_close(output[user, c], expected, rtol=1e-10, atol=1e-10)


def test_a_cluster_without_any_match_weighs_nothing_and_is_finite() -> None:
    """Even where its weight is too small for float32."""
    labels = torch.tensor([[0, 0, 1]])
    match = torch.tensor([[[0.0, 0.0, 500.0]]], requires_grad=True)
    bonus = Clusters.of(labels, 2).log_sizes(match, torch.float32)
    assert torch.softmax(bonus, dim=-1)[0, 0].tolist() == pytest.approx([0.0, 1.0], abs=1e-29)
    [gradient] = torch.autograd.grad(bonus.sum(), match)
    assert gradient.isfinite().all()
