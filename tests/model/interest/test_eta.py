"""The search by signatures against bits that are counted one by one."""

import pytest
import torch
from torch import Tensor

from model.interest.eta import EndToEndTargetAttention
from model.interest.options import Eta
from tests.model.interest.drawn import drawn, randomised
from tests.model.interest.test_retrieval import best, literal_attention


def hamming(model: EndToEndTargetAttention, one: Tensor, other: Tensor) -> int:
    return sum(bool(plane @ one > 0) != bool(plane @ other > 0) for plane in model.planes.T)


@pytest.mark.parametrize(("bits", "retrieved"), [(1, 3), (6, 4), (32, 1), (32, 100)])
def test_it_reads_the_nearest_by_hamming_distance(bits: int, retrieved: int) -> None:
    torch.manual_seed(0)
    keys, mask, targets, match, known = drawn(lengths=(30, 0, 1, 4, 17))
    model = EndToEndTargetAttention(6, Eta(bits=bits, retrieved=retrieved))
    randomised(model)
    vectors = model(keys, mask, targets, match, known)
    for b, c in [(b, c) for b in range(len(mask)) for c in range(targets.shape[1])]:
        there = list(keys[b, mask[b]])
        nearness = [-float(hamming(model, targets[b, c], key)) for key in there]
        places = best(nearness, range(len(there)), retrieved)
        readout = literal_attention(
            model.attention, targets[b, c], [there[at] for at in places], [match[b, c, at] for at in places]
        )
        torch.testing.assert_close(vectors[b, c], torch.cat([targets[b, c], readout, targets[b, c] * readout]))


def test_the_same_item_is_found_among_many() -> None:
    torch.manual_seed(1)
    model = EndToEndTargetAttention(16, Eta(retrieved=3))
    keys = torch.randn(1, 300, 16)
    agreement = model.agreement(keys, 2 * keys[:, [7, 150, 299]])
    assert (agreement.amax(dim=-1) == 32).all()
    assert agreement.argmax(dim=-1).tolist() == [[7, 150, 299]]


def test_gradients_reach_what_was_found_alone() -> None:
    torch.manual_seed(2)
    model = EndToEndTargetAttention(6, Eta(retrieved=2)).double()
    keys, mask, targets, match, known = drawn(candidates=1, lengths=(12,))
    keys.requires_grad_()
    model(keys, mask, targets, match, known).sin().sum().backward()
    assert keys.grad is not None
    assert keys.grad.any(dim=-1).sum() == 2
