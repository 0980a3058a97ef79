"""Dynamic Memory-based Attention Network against its equations, and what its memory keeps."""

import math

import pytest
import torch
from torch import Tensor

from model.errors import SpecError
from model.interest.dman import Abstraction, DynamicMemoryAttention, Layer, Memory
from model.interest.options import Dman
from model.spec import ModelSpec
from tests.model.interest.drawn import drawn, randomised
from tests.model.interest.test_multi_head import literal_row_attention, literal_target_attention

D = 6
OPTIONS = Dman(segment=4, slots=3, layers=2, heads=2)
LENGTHS = (0, 3, 4, 5, 14, 17)


def model_of(options: Dman = OPTIONS) -> DynamicMemoryAttention:
    torch.manual_seed(0)
    model = DynamicMemoryAttention(D, options)
    randomised(model)
    return model


def literal_abstraction(
    abstraction: Abstraction, old: list[Tensor], stands_for: list[Tensor], rows: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    capsules = [*old, *(abstraction.norm(abstraction.transform.weight @ row) for row in rows)]
    weights = [*stands_for, *(row.new_ones(()) for row in rows)]
    fused = old
    b = torch.zeros(len(capsules), len(old), dtype=torch.float64)
    for _ in range(abstraction.iterations):
        b = b + torch.stack([torch.stack([e @ v / math.sqrt(D) for v in fused]) for e in capsules])
        shares = [weight * row.softmax(dim=0) for weight, row in zip(weights, b, strict=True)]
        fused = []
        for i in range(len(old)):
            s = torch.stack([share[i] * e / math.sqrt(D) for share, e in zip(shares, capsules, strict=True)]).sum(dim=0)
            fused.append(math.sqrt(D) * s.norm() ** 2 / (1 + s.norm() ** 2) * s / s.norm())
    return fused, [torch.stack([share[i] for share in shares]).sum() for i in range(len(old))]


def literal_layer(layer: Layer, segments: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Return the states of one user's segments, oldest first, and the memory after the last."""
    memory = list(layer.abstraction.initial)
    stands_for = [memory[0].new_ones(())] * len(memory)
    shorts: list[list[Tensor]] = []
    results: list[list[Tensor]] = []
    for n, segment in enumerate(segments):
        before = segments[n - 1] if n else []
        shorts.append([])
        results.append([])
        for t, row in enumerate(segment):
            short = literal_row_attention(layer.short, row, torch.stack([*before, *segment[: t + 1]]))
            long = literal_row_attention(layer.long, row, torch.stack(memory))
            gate = torch.sigmoid(layer.gate(torch.cat([short, long])))
            state = layer.mixed(row + gate * short + (1 - gate) * long)
            state = layer.transformed(state + layer.transform(torch.relu(layer.hidden(state))))
            shorts[n].append(short)
            results[n].append(state)
        if n:
            memory, stands_for = literal_abstraction(layer.abstraction, memory, stands_for, shorts[n - 1])
    return results, memory


def literal_user(model: DynamicMemoryAttention, keys: Tensor, target: Tensor, match: Tensor) -> Tensor:
    """Return the vector of one candidate for a user with exactly these behaviours."""
    rows = [model.norm(key) for key in keys]
    first = len(rows) % model.segment or model.segment
    segments = [rows[:first], *(rows[at : at + model.segment] for at in range(first, len(rows), model.segment))]
    segments = [segment for segment in segments if segment]
    memory = list(model._layers()[-1].abstraction.initial)
    for layer in model._layers():
        segments, memory = literal_layer(layer, segments)
    last = segments[-1] if segments else []
    short = literal_target_attention(
        model.to_segment,
        target,
        torch.stack(last) if last else keys.new_zeros(0, D),
        match[len(keys) - len(last) : len(keys)],
        None,
    )
    long = literal_target_attention(model.to_memory, target, torch.stack(memory), None, None)
    gate = torch.sigmoid(model.gate(torch.cat([short, long])))
    return torch.cat([target, gate * short + (1 - gate) * long])


@pytest.mark.long
@pytest.mark.parametrize("layers", [1, 2])
def test_all_segments_together_equal_one_behaviour_at_a_time(layers: int) -> None:
    model = model_of(Dman(segment=4, slots=3, layers=layers))
    keys, mask, targets, match, known = drawn(D, candidates=2, lengths=LENGTHS)
    found = model(keys, mask, targets, match, known)
    for b, length in enumerate(LENGTHS):
        for c in range(2):
            expected = literal_user(model, keys[b, :length], targets[b, c], match[b, c, :length])
            torch.testing.assert_close(found[b, c], expected, rtol=1e-8, atol=1e-8)


def test_rows_of_the_memory_stand_for_all_that_was_fused() -> None:
    model = model_of()
    keys, mask, _, _, _ = drawn(D, candidates=1, lengths=LENGTHS)
    _, reads = model._encoded(keys, mask)
    for read in reads:
        stand_for = read.memories[-1].weights.sum(dim=1)
        fused = [max(0, length - OPTIONS.segment) for length in LENGTHS]
        torch.testing.assert_close(stand_for, torch.tensor(fused, dtype=torch.float64) + OPTIONS.slots)


def test_without_rows_a_memory_stays_what_it_was() -> None:
    abstraction = Abstraction(D, 3, 3).double()
    before = abstraction.start(2)
    rows, there = torch.randn(2, 5, D, dtype=torch.float64), torch.tensor([[False] * 5, [True] * 5])
    after = abstraction(before, rows, there)
    assert torch.equal(after.rows[0], before.rows[0])
    assert torch.equal(after.weights[0], before.weights[0])
    assert not torch.allclose(after.rows[1], before.rows[1])


def test_an_old_segment_is_not_forgotten_for_a_new_one() -> None:
    """Two kinds of rows in turn, many times: the memory holds both, whichever came last."""
    torch.manual_seed(0)
    abstraction = Abstraction(16, 2, 3)
    kinds = torch.nn.functional.layer_norm(torch.randn(2, 16), (16,))
    memory = Memory(kinds.flip(0).unsqueeze(0) + 0.5 * torch.randn(1, 2, 16), torch.ones(1, 2))
    with torch.no_grad():
        memory = abstraction(memory, kinds[0].expand(1, 30, 16), torch.ones(1, 30, dtype=torch.bool))
        for _ in range(6):
            memory = abstraction(memory, kinds[1].expand(1, 10, 16), torch.ones(1, 10, dtype=torch.bool))
    similarities = torch.nn.functional.cosine_similarity(memory.rows[0, :, None], kinds[None], dim=-1)
    assert (similarities.amax(dim=0) > 0.95).all()


def test_reconstruction_trains_the_abstraction_alone_and_can_be_learned() -> None:
    model = model_of()
    keys, mask, targets, match, known = drawn(D, candidates=2, lengths=LENGTHS)
    keys.requires_grad_()

    def loss() -> Tensor:
        _, extra = model.learn(keys, mask, targets, match, known)
        assert extra is not None
        return extra(None)  # type: ignore[arg-type]  # it reads nothing of the outcome

    loss().backward()  # type: ignore[no-untyped-call]
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    fusing = {name for name, _ in model.named_parameters() if ".abstraction." in name and "initial" not in name}
    assert trained == fusing
    assert keys.grad is None
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    first = loss().item()
    for _ in range(25):
        optimiser.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert loss().item() < 0.7 * first


def test_nobody_has_anything_to_reconstruct_and_the_loss_is_zero() -> None:
    model = model_of()
    _, extra = model.learn(*drawn(D, candidates=2, lengths=(0, 3)))
    assert extra is not None
    assert extra(None) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Dman(segment=50), "below the model's length, 50"),
        (Dman(segment=10, slots=0), "slots is 0"),
        (Dman(segment=10, reconstruction=-1.0), "reconstruction is -1.0"),
    ],
)
def test_what_cannot_be_built_is_refused(options: Dman, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ModelSpec(interest=options, length=50)
