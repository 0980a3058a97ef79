"""TransAct against torch's own encoder, candidate by candidate."""

import pytest
import torch
from torch import Tensor, nn

from model.interest.options import Transact
from model.interest.transact import EncoderLayer, RealtimeActions
from tests.model.interest.drawn import Inputs, drawn, randomised

D = 6


def torchs(layer: EncoderLayer) -> nn.TransformerEncoderLayer:
    """Return torch's encoder layer with the same parameters."""
    hidden = layer.forward_in.out_features
    theirs = nn.TransformerEncoderLayer(2 * D, layer.heads, hidden, dropout=0.0, batch_first=True).double()
    theirs.self_attn.in_proj_weight.data.copy_(layer.attention_in.weight.data)
    theirs.self_attn.in_proj_bias.data.copy_(layer.attention_in.bias.data)
    pairs = [
        (theirs.self_attn.out_proj, layer.attention_out),
        (theirs.norm1, layer.attention_norm),
        (theirs.linear1, layer.forward_in),
        (theirs.linear2, layer.forward_out),
        (theirs.norm2, layer.forward_norm),
    ]
    for ours, other in pairs:
        ours.load_state_dict(other.state_dict())
    return theirs


def literal(model: RealtimeActions, inputs: Inputs) -> Tensor:
    keys, mask, targets, match, _ = inputs
    layers = [torchs(layer) for layer in model.layers if isinstance(layer, EncoderLayer)]
    outputs = []
    for b in range(len(keys)):
        places = mask[b].nonzero()[:, 0].tolist()[-model.recent :]
        for c, q in enumerate(targets[b]):
            most, newest = torch.zeros(2 * D, dtype=torch.float64), torch.zeros(model.outputs, 2 * D).double()
            if places:
                x = torch.stack([torch.cat([keys[b, at], q]) for at in places]).unsqueeze(0)
                for layer in layers:
                    x = layer(x, src_mask=match[b, c, places].expand(len(places), -1))
                most = x[0].amax(0)
                for place in range(min(model.outputs, len(places))):
                    newest[place] = x[0, len(places) - 1 - place]
            outputs.append(torch.cat([q, model.out(most), newest.flatten()]))
    return torch.stack(outputs).view(*targets.shape[:2], -1)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize(("layers", "recent", "outputs"), [(1, 5, 1), (2, 1, 4), (3, 9, 3), (1, 30, 0)])
def test_it_computes_what_torchs_encoder_computes(heads: int, layers: int, recent: int, outputs: int) -> None:
    options = Transact(recent=recent, layers=layers, heads=heads, hidden=5, outputs=outputs)
    model, inputs = RealtimeActions(D, options), drawn(D)
    randomised(model)
    with torch.no_grad():
        found, expected = model(*inputs), literal(model, inputs)
    assert found.shape[-1] == model.width
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_an_odd_width_is_no_hindrance() -> None:
    keys, mask, targets, match, known = drawn(5)
    model = RealtimeActions(5, Transact(heads=3)).double()
    assert model(keys, mask, targets, match, known).isfinite().all()


def test_behaviours_have_no_order_but_the_newest() -> None:
    """The encoder has no positions: only which output is handed on depends on the order."""
    keys, mask, targets, match, known = drawn(D, lengths=(8,))
    model = RealtimeActions(D, Transact())
    randomised(model)
    order = torch.tensor([3, 0, 5, 1, 6, 4, 2, 7])
    found = model(keys[:, order], mask, targets, match[..., order], known)
    torch.testing.assert_close(found, model(keys, mask, targets, match, known), rtol=1e-9, atol=1e-9)


def test_untrained_behaviours_attend_to_an_occurrence_of_the_candidate() -> None:
    """All else being equal, that is what tells one candidate from another."""
    torch.manual_seed(0)
    model = RealtimeActions(32, Transact())
    keys, targets = torch.randn(1, 20, 32), torch.randn(1, 1, 32)
    keys[0, 7] = targets[0, 0]
    query, key, _ = model._projected(keys, targets).chunk(3, dim=-1)
    without = model._projected(keys, torch.zeros_like(targets)).chunk(3, dim=-1)[0]
    added = ((query - without) @ key.mT)[0].mean(dim=0)
    assert added.argmax() == 7
    assert added[7] > 2 * added[:7].max()
