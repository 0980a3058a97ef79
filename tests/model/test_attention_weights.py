"""The weights with which a model says it has read the behaviours are those that it has read them with."""

import numpy as np
import pytest
import torch

from model.interest.din import DeepInterest
from model.interest.options import Din, Sam
from model.interest.sam import SparseAttentiveMemory
from model.scorer import Scorer
from model.spec import preset
from tests.model.learning import examples

B, C, L, D = 3, 4, 7, 5


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, mask, targets and additions to the logits; of the last user nothing is known."""
    torch.manual_seed(3)
    mask = torch.arange(L) < torch.tensor([[L], [2], [0]])
    return torch.randn(B, L, D), mask, torch.randn(B, C, D), torch.randn(B, C, L)


@pytest.mark.parametrize("matched", [True, False])
def test_dins_readout_is_the_sum_by_these_weights(matched: bool) -> None:
    keys, mask, targets, logits = drawn()
    model = DeepInterest(D, Din(normalise_readout=False)).requires_grad_(False)
    match = logits if matched else None
    weights = model.attention_weights(keys, mask, targets, match)
    assert weights.shape == (B, C, L)
    assert ((weights > 0) == mask.unsqueeze(1)).all()
    found = model(keys, mask, targets, match)[..., D:]
    torch.testing.assert_close(torch.bmm(weights, keys), found, atol=1e-5, rtol=1e-5)


def test_sams_weights_are_the_mean_of_its_passes() -> None:
    keys, mask, targets, logits = drawn()
    model = SparseAttentiveMemory(D, Sam(passes=2, output="readouts", normalise_readout=False)).requires_grad_(False)
    weights = model.attention_weights(keys, mask, targets, logits)
    first, _, second, _ = torch.split(model(keys, mask, targets, logits)[..., D:], D, dim=-1)
    torch.testing.assert_close(torch.bmm(weights, keys), (first + second) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["sam", "din", "mean", "counts", "popularity"])
def test_a_scorer_tells_them_of_the_behaviours_that_its_model_reads(kind: str) -> None:
    [example] = examples(1, seed=2)
    spec = preset(f"{kind}-3") if kind in ("sam", "din", "mean") else preset(kind)
    weights = Scorer(spec).attention_weights(example)
    if kind in ("sam", "din"):
        assert weights is not None
        assert weights.shape == (len(example.items), min(3, len(example.sequence)))
        assert np.isfinite(weights).all()
    else:
        assert weights is None
