"""Hash tables against behaviours that share a bucket one by one, and how often they do."""

import math

import pytest
import torch
from torch import Tensor

from model.errors import SpecError
from model.interest.options import Sdim
from model.interest.sdim import HashedInterest
from model.interest.signatures import draw_planes, sides
from tests.model.interest.drawn import drawn


def literal(model: HashedInterest, target: Tensor, keys: list[Tensor]) -> Tensor:
    """Return the (d,) readout of one candidate, from the equation."""
    tables = model.planes.T.view(-1, model.bits, len(target))
    readout = torch.zeros_like(target)
    for planes in tables:
        bucket = torch.zeros_like(target)
        for key in keys:
            if all((plane @ key > 0) == (plane @ target > 0) for plane in planes):
                bucket += key
        if bucket.any():
            readout += bucket / bucket.norm() / len(tables)
    return readout


@pytest.mark.parametrize(("hashes", "bits"), [(1, 1), (3, 2), (16, 4)])
def test_tables_equal_their_literal_form(hashes: int, bits: int) -> None:
    torch.manual_seed(0)
    keys, mask, targets, match, known = drawn(lengths=(60, 0, 1, 4, 25))
    model = HashedInterest(6, Sdim(hashes=hashes, bits=bits)).double()
    found = model(keys, mask, targets, match, known)
    for b, c in [(b, c) for b in range(len(mask)) for c in range(targets.shape[1])]:
        readout = literal(model, targets[b, c], list(keys[b, mask[b]]))
        torch.testing.assert_close(found[b, c], torch.cat([targets[b, c], readout, targets[b, c] * readout]))
    assert found[..., 6:12].any(dim=-1)[mask.any(dim=1)].any()


@pytest.mark.parametrize("angle", [0.1, 0.5, 1.2, 2.5])
def test_signatures_are_equal_as_often_as_the_angle_says(angle: float) -> None:
    torch.manual_seed(1)
    tables, bits = 20_000, 3
    x, y = torch.randn(2, 8)
    y -= (x @ y) / (x @ x) * x
    turned = math.cos(angle) * x / x.norm() + math.sin(angle) * y / y.norm()
    planes = draw_planes(8, tables * bits)
    equal = (sides(x[None], planes) == sides(turned[None], planes)).view(tables, bits).all(dim=1)
    assert float(equal.float().mean()) == pytest.approx((1 - angle / math.pi) ** bits, abs=0.015)


def test_a_candidate_alone_in_the_history_is_read_as_it_is_at_any_scale() -> None:
    torch.manual_seed(2)
    model = HashedInterest(8, Sdim())
    target = torch.randn(1, 1, 8)
    readout = model(1000 * target, torch.ones(1, 1, dtype=torch.bool), target)[..., 8:16]
    torch.testing.assert_close(readout, target / target.norm())


def test_planes_are_not_learned_and_not_published() -> None:
    model = HashedInterest(8, Sdim())
    assert list(model.parameters()) == []
    assert model.state_dict() == {}


def test_too_many_bits_are_refused() -> None:
    with pytest.raises(SpecError, match=r"interest\.bits is 9, but must be at most 8: choose more hashes"):
        Sdim(bits=9).check(100)
