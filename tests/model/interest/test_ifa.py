"""IFA against attention with a weight for every behaviour; and what depends on the list of candidates."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from msgspec.structs import replace as changed
from torch import Tensor

from model.example import Example
from model.interest.ifa import InteractionFidelity
from model.interest.options import Ifa
from model.scorer import Scorer
from model.spec import preset
from tests.model.interest.drawn import drawn, normed, randomised
from tests.model.worlds import example

D = 6


def built(**options: bool | int) -> InteractionFidelity:
    torch.manual_seed(0)
    model = InteractionFidelity(D, Ifa(**options))  # type: ignore[arg-type]
    randomised(model)
    return model


def features(x: Tensor) -> Tensor:
    both = torch.cat([4 * x, -4 * x])
    weights = (both - both.logsumexp(0)).exp() + 1e-3
    return weights / weights.square().sum().sqrt()


def found(model: InteractionFidelity, q: Tensor, keys: Tensor) -> Tensor:
    """Return what one candidate finds; `keys` are the n behaviours that there are."""
    heads = model.heads
    query = model.query(normed(q, model.query_norm)).chunk(heads)
    parts = []
    for head in range(heads):
        r, total = torch.zeros(D // heads, dtype=q.dtype), torch.tensor(0.0)
        for k in keys:
            weight = features(query[head]) @ features(model.key(normed(k, model.key_norm)).chunk(heads)[head])
            r, total = r + weight * model.value(k).chunk(heads)[head], total + weight
        parts.append(r / total if len(keys) else r)
    return normed(model.out(torch.cat(parts)), model.norm)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_it_is_attention_with_a_weight_for_every_behaviour(heads: int) -> None:
    model = built(heads=heads)
    keys, mask, targets, match, known = drawn(D)
    output = model(keys, mask, targets, match, known)
    for user, candidates in enumerate(targets):
        for c, q in enumerate(candidates):
            expected = torch.cat([q, found(model, q, keys[user, mask[user]])])
            torch.testing.assert_close(output[user, c], expected, rtol=1e-10, atol=1e-10)


def test_what_is_like_the_target_weighs_most() -> None:
    """Also in single precision, where one key in a thousand is the target."""
    torch.manual_seed(0)
    model = InteractionFidelity(32, Ifa())
    keys = torch.randn(1, 1000, 32)
    mask = torch.ones(1, 1000, dtype=torch.bool)
    key = model.key(model.key_norm(keys))[0].detach()
    weights = torch.stack([features(key[500]) @ features(each) for each in key])
    assert weights.argmax() == 500
    assert weights[500] > 20 * weights.median()
    with torch.inference_mode():
        served = model(keys, mask, keys[:, 500:501])
    torch.testing.assert_close(served, model(keys, mask, keys[:, 500:501]).detach(), rtol=1e-4, atol=1e-4)


def test_candidates_that_see_each_other_add_what_they_attend_to() -> None:
    model = built(heads=2, among_candidates=True)
    keys, mask, targets, match, known = drawn(D, candidates=4)
    known = replace(known, target_mask=torch.arange(4) < torch.tensor([4, 1, 3, 2, 4]).unsqueeze(1))
    output = model(keys, mask, targets, match, known)
    among = model.among
    assert among is not None
    for user, present in enumerate(known.target_mask.sum(dim=1).tolist()):
        rows = [found(model, q, keys[user, mask[user]]) for q in targets[user, :present]]
        for c, row in enumerate(rows):
            parts = []
            for head in range(2):
                query, *others = (
                    layer(x).chunk(2)[head] for layer, x in ((among.query, row), *((among.key, each) for each in rows))
                )
                logits = torch.stack([query @ other / math.sqrt(len(other)) for other in others])
                values = [among.value(each).chunk(2)[head] for each in rows]
                weights = torch.softmax(logits, 0)
                parts.append(sum(w * v for w, v in zip(weights, values, strict=True)))
            expected = torch.cat([targets[user, c], row + among.out(torch.cat(parts))])
            torch.testing.assert_close(output[user, c], expected, rtol=1e-10, atol=1e-10)


def scores(spec_options: Ifa, asked: Example) -> list[bytes]:
    spec = changed(preset("ifa"), interest=spec_options, item_dim=3, category_dim=5, length=40)
    scorer = Scorer(spec, seed=3)
    network = scorer._network
    torch.manual_seed(0)
    torch.nn.init.normal_(network.head[-1].weight)  # type: ignore[arg-type]
    return [score.tobytes() for score in scorer.score([asked])[0]]


@pytest.mark.parametrize("among", [False, True])
def test_scores_depend_on_the_list_only_if_candidates_see_each_other(among: bool) -> None:
    whole = example(np.random.default_rng(0), 30, 6, labelled=False)
    assert whole.numbers is not None
    part = replace(whole, items=whole.items[:3], categories=whole.categories[:3], numbers=whole.numbers[:3])
    options = Ifa(among_candidates=among)
    assert (scores(options, whole)[:3] == scores(options, part)) != among
    assert Ifa().among_candidates is False
