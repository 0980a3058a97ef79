"""MIRRN against its equations, with torch's own Fourier transform; and what its queries find."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from model.interest.mirrn import FourierMixing, MultiGranularityInterest, nearest, places_from_end
from model.interest.options import Mirrn
from model.interest.signatures import sides
from tests.model.interest.drawn import drawn, normed, randomised

D = 6


def built(**options: int | str) -> MultiGranularityInterest:
    torch.manual_seed(0)
    model = MultiGranularityInterest(D, Mirrn(**options))  # type: ignore[arg-type]
    randomised(model)
    return model


def found_by(query: Tensor, keys: Tensor, rotations: Tensor, count: int) -> list[int]:
    """Return the places of the nearest of n keys, in the order of time."""
    bits = query @ rotations > 0
    distances = [int(((k @ rotations > 0) != bits).sum()) for k in keys]
    return sorted(sorted(range(len(keys)), key=lambda at: (distances[at], -at))[:count])


def interest(model: MultiGranularityInterest, which: int, found: list[int], keys: Tensor, count: int) -> Tensor:
    """Return the interest that the behaviours at these places of n keys are."""
    block = model.refinements[which]
    assert isinstance(block, FourierMixing)
    if not found:
        return torch.zeros(D, dtype=torch.float64)
    E = torch.zeros(count, D, dtype=torch.float64)
    for row, at in enumerate(found):
        later = len(keys) - 1 - at
        E[row] = keys[at] + 0.02 * model.places[int(2 * math.log2(1 + later))]
    W = torch.complex(*block.weight).T
    mixed = torch.fft.irfft(W * torch.fft.rfft(E, dim=0, norm="ortho"), n=count, dim=0, norm="ortho")
    rows = [normed(E[row] + mixed[row], block.norm) for row in range(len(found))]
    return torch.stack(rows).mean(dim=0)


def literal(model: MultiGranularityInterest, options: Mirrn, q: Tensor, keys: Tensor) -> Tensor:
    """Return what leaves the model for one candidate; `keys` are the n behaviours that there are."""
    K, attention = options.retrieved, model.attention
    nothing = torch.zeros(D, dtype=torch.float64)
    queries = [q, keys[-options.recent :].mean(dim=0), keys.mean(dim=0)] if len(keys) else [q, nothing, nothing]
    found = [found_by(query, keys, model.rotations, K) for query in queries]
    interests = [interest(model, which, each, keys, K) for which, each in enumerate(found)]
    parts = []
    for head in range(options.heads):
        query, *rows = (
            layer(x).chunk(options.heads)[head]
            for layer, x in ((attention.query, q), *((attention.key, each) for each in interests))
        )
        weights = torch.softmax(torch.stack([query @ row / math.sqrt(len(row)) for row in rows]), 0)
        values = [attention.value(each).chunk(options.heads)[head] for each in interests]
        parts.append(sum(w * v for w, v in zip(weights, values, strict=True)))
    return torch.cat([q, attention.out(torch.cat(parts))])


@pytest.mark.parametrize("mixing", ["released", "per_frequency"])
@pytest.mark.parametrize("retrieved", [1, 4, 5, 12])
def test_it_computes_its_equations(mixing: Literal["released", "per_frequency"], retrieved: int) -> None:
    options = Mirrn(retrieved=retrieved, bits=8, recent=3, filter=mixing, heads=2)
    torch.manual_seed(0)
    model = MultiGranularityInterest(D, options)
    randomised(model)
    keys, mask, targets, _, _ = drawn(D, lengths=(20, 0, 1, 4, 9))
    output = model(keys, mask, targets)
    for user, candidates in enumerate(targets):
        for c, q in enumerate(candidates):
            expected = literal(model, options, q, keys[user, mask[user]])
            torch.testing.assert_close(output[user, c], expected, rtol=1e-10, atol=1e-10)


def test_the_released_filter_is_a_sum_of_the_signal_and_its_hilbert_transform() -> None:
    """Which is why it cannot single out a rhythm, as one weight a frequency can."""
    torch.manual_seed(0)
    x = torch.randn(8, D, dtype=torch.float64)
    a, b = torch.randn(2, D, dtype=torch.float64)
    spectrum = torch.fft.rfft(x, dim=0)
    hilbert = torch.fft.irfft(1j * spectrum, n=8, dim=0)
    torch.testing.assert_close(torch.fft.irfft(torch.complex(a, b) * spectrum, n=8, dim=0), a * x + b * hilbert)
    shapes = {kind: FourierMixing(D, 8, per_frequency=kind).weight.shape[1:] for kind in (False, True)}
    assert shapes == {False: (D, 1), True: (D, 5)}


def test_equal_keys_are_found_first_and_of_equals_the_newest() -> None:
    torch.manual_seed(0)
    keys = torch.randn(1, 50, D)
    keys[0, [3, 20, 31, 44]] = keys[0, 3].clone()
    rotations = torch.randn(D, 64)
    codes, mask = sides(keys, rotations), torch.ones(1, 50, dtype=torch.bool)
    mask[0, 44:] = False
    assert nearest(codes[:, 3:4], codes, mask, 2).tolist() == [[[20, 31]]]
    assert nearest(codes[:, 3:4], codes, mask, 3).tolist() == [[[3, 20, 31]]]
    everything = nearest(codes[:, 3:4], codes, mask, 60)[0, 0].tolist()
    assert everything == [*range(44), *([50] * 16)], "what is not there has the place after the last"


def test_far_places_share_a_row() -> None:
    mask = torch.arange(1000) < torch.tensor([[1000], [3]])
    long, short = places_from_end(mask)
    assert long.flip(0)[[0, 1, 2, 3, 7, 63, 998, 999]].tolist() == [0, 2, 3, 4, 6, 12, 19, 19]
    assert short[:3].tolist() == [3, 2, 0]


def test_codes_are_frozen_and_follow_from_the_seed() -> None:
    models = [built(), built()]
    assert torch.equal(models[0].rotations, models[1].rotations)
    assert "rotations" not in models[0].state_dict()
    assert all("rotations" not in name for name, _ in models[0].named_parameters())
