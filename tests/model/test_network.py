"""The contract of every network: one suite over every kind and option."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from model.batch import Batch, collate
from model.example import Example
from model.features.encoder import FEATURE_DIM
from model.features.gather import FeatureBatch
from model.interest.base import Outcome
from model.interest.baselines import PRIOR
from model.interest.options import (
    Counts,
    Dare,
    Dien,
    Din,
    Dman,
    Eta,
    Hstu,
    Ifa,
    Interest,
    LongVq,
    Mean,
    Mimn,
    Mirrn,
    Nrnm,
    RnnSearch,
    Sam,
    Sar,
    Sasrec,
    Sdim,
    SimHard,
    SimSoft,
    Transact,
    Twin,
    TwinV2,
)
from model.network import Embedded, Network
from model.spec import PRESETS, ModelSpec, preset
from state.records import NUMBERS, fields_of
from tests.model.worlds import FEATURES, NOW, embed, embed_features, example, featured

SMALL = ModelSpec(item_dim=3, category_dim=5, length=40)


def of(interest: Interest, **fields: Any) -> ModelSpec:
    return replace(SMALL, interest=interest, **fields)


SPECS = {
    "sam": SMALL,
    "sam without match": replace(SMALL, match=False),
    "sam stk": of(Sam(feedback="stk")),
    "sam raw": of(Sam(normalise_readout=False)),
    "sam memories": of(Sam(output="paper")),
    "sam readouts": of(Sam(passes=3, output="readouts")),
    "sam one pass": of(Sam(passes=1)),
    "sam shared": of(Sam(passes=3, shared_attention=True)),
    "sam-3p+": of(Sam(enhancement=True)),
    "sam-paper": of(Sam(normalise_readout=False, enhancement=True), match=False),
    "din": of(Din()),
    "din without match": of(Din(), match=False),
    "din raw": of(Din(normalise_readout=False)),
    "mean": of(Mean()),
    "mean without match": of(Mean(), match=False),
    "sdim": of(Sdim()),
    "sdim without match": of(Sdim(hashes=3, bits=2), match=False),
    "eta": of(Eta()),
    "eta without match": of(Eta(bits=5, retrieved=4, heads=3), match=False),
    "sim-hard": of(SimHard()),
    "sim-hard of few": of(SimHard(retrieved=2, heads=1)),
    "sim-soft": of(SimSoft()),
    "sim-soft without match": of(SimSoft(retrieved=4), match=False),
    "twin": of(Twin()),
    "twin without match": of(Twin(retrieved=5, heads=3), match=False),
    "twin with features": of(Twin(retrieved=7), features=FEATURES),
    "nrnm": of(Nrnm(stride=6, slots=3)),
    "nrnm without match": of(Nrnm(stride=6, slots=3), match=False),
    "dman": of(Dman(segment=9, slots=3)),
    "dman of two layers, without match": of(Dman(segment=9, slots=3, layers=2), match=False),
    "dman without reconstruction": of(Dman(segment=16, slots=2, heads=3, reconstruction=0.0)),
    "rnn-search": of(RnnSearch(short=7)),
    "rnn-search off-policy": of(RnnSearch(short=7, off_policy=True)),
    "sar": of(Sar(lengths=(4, 11, 40))),
    "sar of dman": of(Sar(lengths=(9, 40), inner=Dman(segment=8, slots=3))),
    "sar of mean": of(Sar(lengths=(9, 40), inner=Mean())),
    "dien": of(Dien(recent=12)),
    "dien without match": of(Dien(), match=False),
    "sasrec": of(Sasrec(recent=12)),
    "sasrec without match": of(Sasrec(heads=3), match=False),
    "hstu": of(Hstu(recent=12)),
    "hstu without match": of(Hstu(heads=3, layers=1), match=False),
    "mimn": of(Mimn(recent=12)),
    "transact": of(Transact(recent=12, outputs=3)),
    "transact without match": of(Transact(heads=3, layers=2), match=False),
    "twin-v2": of(TwinV2(cluster_size=4)),
    "twin-v2 without match": of(TwinV2(cluster_size=2, heads=3), match=False),
    "dare": of(Dare(item_attention_dim=2, category_attention_dim=3, retrieved=6)),
    "dare without match": of(Dare(retrieved=60), match=False),
    "dare without auxiliary": of(Dare(retrieved=6, auxiliary=0.0)),
    "mirrn": of(Mirrn(retrieved=5)),
    "mirrn per frequency": of(Mirrn(retrieved=8, heads=3, filter="per_frequency"), match=False),
    "ifa": of(Ifa()),
    "ifa among candidates": of(Ifa(heads=3, among_candidates=True)),
    "longvq": of(LongVq(codes=7, window=5)),
    "longvq without match": of(LongVq(codes=7, window=50), match=False),
    "longvq without commitment": of(LongVq(codes=7, window=5, commitment=0.0)),
    "counts": of(Counts()),
    "linear counts": of(Counts(), hidden=()),
    "sam with features": replace(SMALL, features=FEATURES),
    "din with features, without match": of(Din(), match=False, features=FEATURES),
    "mean with features": of(Mean(), features=FEATURES),
    "counts with features": of(Counts(), features=FEATURES),
    "din with numbers": of(Din(), features=FEATURES[1:3]),
    "popularity": preset("popularity"),
    "random": preset("random"),
}


@pytest.fixture(params=list(SPECS))
def network(request: pytest.FixtureRequest) -> Network:
    """Return a network of each specification, in double precision, with no parameter at its tidy start."""
    net = Network(SPECS[request.param], seed=3).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.3)
    return net


def logits_of(net: Network, batch: Batch) -> Tensor:
    logits: Tensor = net(batch, embedded(net, batch))
    return logits


def embedded(net: Network, batch: Batch) -> Embedded:
    pair = embed(batch, net.spec.width, torch.float64) if net.spec.embeds else (None, None)
    features = (None, None) if batch.features is None else embed_features(batch, FEATURE_DIM, torch.float64)
    return Embedded(*pair, *features)


def draw(net: Network) -> Callable[..., Example]:
    return featured if net.spec.features else example


def batch_of(net: Network, *examples: Example) -> Batch:
    return collate(examples, length=40, features=net.spec.features)


def unequal_batch(net: Network) -> Batch:
    rng = np.random.default_rng(5)
    return batch_of(net, *(draw(net)(rng, n, c) for n, c in ((30, 6), (0, 1), (1, 3), (60, 2))))


def of_candidate(features: FeatureBatch, place: int) -> FeatureBatch:
    numbers, keys = features.shown_numbers, features.shown_keys
    here = slice(place, place + 1)
    return dataclasses.replace(features, shown_numbers=numbers[:, here], shown_keys=keys[:, here])


def test_candidates_together_equal_candidates_alone(network: Network) -> None:
    batch = unequal_batch(network)
    if getattr(network.spec.interest, "among_candidates", False):
        pytest.skip("their scores depend on the list")
    together = logits_of(network, batch)
    for c in range(batch.target_items.shape[1]):
        alone = dataclasses.replace(
            batch,
            target_items=batch.target_items[:, c : c + 1],
            target_categories=batch.target_categories[:, c : c + 1],
            target_mask=batch.target_mask[:, c : c + 1],
            features=None if batch.features is None else of_candidate(batch.features, c),
        )
        rows = batch.target_mask[:, c]
        expected = logits_of(network, alone)[rows, 0]
        torch.testing.assert_close(together[rows, c], expected, rtol=1e-10, atol=1e-10)


def test_users_together_equal_users_alone(network: Network) -> None:
    rng = np.random.default_rng(6)
    examples = [draw(network)(rng, n, c) for n, c in ((30, 4), (0, 2), (7, 1), (29, 1), (31, 5))]
    together = logits_of(network, batch_of(network, *examples))
    for row, one in enumerate(examples):
        alone = logits_of(network, batch_of(network, one))
        torch.testing.assert_close(alone[0], together[row, : len(one.items)], rtol=1e-10, atol=1e-10)


def noisy(features: FeatureBatch, mask: Tensor) -> FeatureBatch:
    """Return features with something in the padding of the histories."""
    there = mask.unsqueeze(-1)
    return dataclasses.replace(
        features,
        past_numbers=features.past_numbers.where(there, 7.0),
        past_keys=features.past_keys.where(there, 2**40 + 1),
    )


def test_the_content_of_padding_changes_nothing(network: Network) -> None:
    batch = unequal_batch(network)
    expected = logits_of(network, batch)
    noise = torch.arange(batch.mask.numel()).view_as(batch.mask)
    filled = dataclasses.replace(
        batch,
        history_items=batch.history_items.where(batch.mask, batch.target_items[:, :1]),
        history_categories=batch.history_categories.where(batch.mask, batch.target_categories[:, :1]),
        history_actions=batch.history_actions.where(batch.mask, noise % 7),
        gap_buckets=batch.gap_buckets.where(batch.mask, noise % 64),
        features=None if batch.features is None else noisy(batch.features, batch.mask),
    )
    found = logits_of(network, filled)
    assert torch.equal(found[batch.target_mask], expected[batch.target_mask])


@pytest.mark.long
def test_more_padding_changes_nothing(network: Network) -> None:
    batch = unequal_batch(network)
    expected = logits_of(network, batch)

    def widened(tensor: Tensor, by: int) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, by)) if tensor.ndim > 1 else tensor

    def wider_features(features: FeatureBatch) -> FeatureBatch:
        def padded(tensor: Tensor, by: int, value: float) -> Tensor:
            return torch.nn.functional.pad(tensor, (0, 0, 0, by), value=value)

        return FeatureBatch(
            padded(features.shown_numbers, 3, math.nan),
            padded(features.shown_keys, 3, 0),
            padded(features.past_numbers, 9, math.nan),
            padded(features.past_keys, 9, 0),
        )

    tensors: list[str] = [
        field.name for field in dataclasses.fields(batch) if isinstance(getattr(batch, field.name), Tensor)
    ]
    changes: dict[str, Any] = dict(
        features=None if batch.features is None else wider_features(batch.features),
        **{name: widened(getattr(batch, name), 3 if name.startswith(("target", "labels")) else 9) for name in tensors},
    )
    wider = dataclasses.replace(batch, **changes)
    found = logits_of(network, wider)[:, : expected.shape[1]]
    torch.testing.assert_close(found[batch.target_mask], expected[batch.target_mask], rtol=1e-10, atol=1e-10)
    assert logits_of(network, wider).isfinite().all()


def test_gradients_reach_every_parameter_and_embedding(network: Network) -> None:
    batch = unequal_batch(network)
    embeddings = [tensor.requires_grad_() for tensor in embed(batch, network.spec.width, torch.float64)]
    of_features = []
    if batch.features is not None:
        of_features = [tensor.requires_grad_() for tensor in embed_features(batch, FEATURE_DIM, torch.float64)]
    logits, extra = network.learn(batch, Embedded(*embeddings, *of_features))
    if not list(network.parameters()):
        assert not logits.requires_grad, "nothing to learn"
        return
    loss = logits[batch.target_mask].square().sum()
    if extra is not None:
        assert batch.labels is not None
        loss = loss + extra(Outcome(logits, batch.labels.double(), batch.target_mask))
    torch.autograd.backward(loss)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    if network.spec.embeds:
        history, targets = embeddings
        assert targets.grad is not None
        if network.spec.length:
            assert history.grad is not None
            assert history.grad[batch.mask].any(dim=-1).all()
            assert not history.grad[~batch.mask].any()
        assert targets.grad[batch.target_mask].any(dim=-1).all()
    if batch.features is not None:
        past, shown = of_features
        assert (shown.grad is None) == (not shown.numel())
        assert shown.grad is None or shown.grad[batch.features.shown_keys != 0].any(dim=-1).all()
        if network.spec.embeds:
            assert (past.grad is None) == (not past.numel())
            assert (
                past.grad is None
                or past.grad[(batch.features.past_keys != 0) & batch.mask.unsqueeze(-1)].any(dim=-1).all()
            )


def test_only_the_newest_behaviours_count(network: Network) -> None:
    rng = np.random.default_rng(7)
    whole = draw(network)(rng, 60, 3)
    newest = dataclasses.replace(whole, sequence=whole.sequence[-40:])
    outputs = [logits_of(network, batch_of(network, one)) for one in (whole, newest)]
    assert torch.equal(*outputs)
    other = dataclasses.replace(whole, sequence=whole.sequence[:40])
    reads = network.spec.length > 0
    assert torch.allclose(logits_of(network, batch_of(network, other)), outputs[0]) != reads


def test_extreme_values_stay_finite(network: Network) -> None:
    rng = np.random.default_rng(8)
    one = draw(network)(rng, 40, 3)
    sequence = one.sequence.copy()
    sequence["ts"] = np.linspace(0, 2**48, len(sequence))
    sequence["action"] = 2**16 - 1
    sequence["category"] = 2**32 - 1
    for records in (sequence, one.context, one.attributes):
        if records is not None:
            for name, kind, _ in fields_of(records.dtype):
                records[name] = 1e15 if kind == NUMBERS else 2**32 - 1
    batch = batch_of(network, dataclasses.replace(one, sequence=sequence, ts=NOW))
    assert logits_of(network, batch).isfinite().all()


@pytest.mark.parametrize("name", PRESETS)
def test_the_seed_alone_fixes_the_parameters(name: str) -> None:
    state = torch.get_rng_state()
    first = Network(preset(name), seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = Network(preset(name), seed=1).state_dict()
    other = Network(preset(name), seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = preset(name).length > 0
    assert any(not torch.equal(first[key], other[key]) for key in first) == drawn, "baselines draw no parameter"


@pytest.mark.parametrize("name", PRESETS)
def test_an_untrained_network_starts_near_the_prior(name: str) -> None:
    net = Network(preset(name), seed=0)
    rng = np.random.default_rng(9)
    batch = collate([example(rng, 300, 20) for _ in range(4)], length=1000, numbers=net.spec.numbers)
    history, targets = embed(batch, net.spec.width)
    with torch.no_grad():
        probabilities = net(batch, Embedded(0.5 * history, 0.5 * targets)).sigmoid()
    assert abs(float(probabilities.mean()) - PRIOR) < 0.2


def test_missing_embeddings_are_an_error() -> None:
    net = Network(ModelSpec())
    with pytest.raises(ValueError, match="reads embeddings"):
        net(unequal_batch(net), Embedded())


def test_actions_and_gaps_start_without_effect_and_can_learn_one() -> None:
    net = Network(replace(SMALL, match=False)).double()
    batch = unequal_batch(net)
    moved = dataclasses.replace(
        batch, history_actions=batch.history_actions + 5, gap_buckets=(batch.gap_buckets + 9) % 64
    )
    assert torch.equal(logits_of(net, batch), logits_of(net, moved))
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    torch.autograd.backward(logits_of(net, batch).sum())
    optimiser.step()
    assert not torch.allclose(logits_of(net, batch), logits_of(net, moved))
