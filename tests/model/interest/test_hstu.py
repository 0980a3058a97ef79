"""HSTU against its equations, one position at a time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from model.batch import gap_bucket
from model.interest.hstu import Layer, SequentialTransduction, buckets_between
from model.interest.options import Hstu
from tests.model.interest.drawn import Inputs, drawn, normed, randomised


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def bucket(seconds: float) -> int:
    return int(gap_bucket(np.array([1000 * seconds], np.int64))[0])


def seconds(age: int) -> float:
    return math.pow(2.0, age / 2) - 1


class Literal:
    """One layer: u, v, q, k of a position, and what attends to a list of others."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return silu(self.layer.project(normed(x, self.layer.norm))).chunk(4)

    def out(self, x: Tensor, others: list[tuple[Tensor, float, Tensor]]) -> Tensor:
        """Return y of position x, which attends to others: theirs, bias and match of each."""
        gate, _, query, _ = self.parts(x)
        heads = []
        for head in range(self.layer.heads):
            total = torch.zeros_like(query.chunk(self.layer.heads)[0])
            for other, bias, match in others:
                _, value, _, key = (part.chunk(self.layer.heads)[head] for part in self.parts(other))
                logit = query.chunk(self.layer.heads)[head] @ key / math.sqrt(len(key)) + bias + match
                total = total + silu(logit) / len(others) * value
            heads.append(total)
        y: Tensor = x + self.layer.out(gate * normed(torch.cat(heads), self.layer.read_norm))
        return y

    def bias(self, places: int, time: int) -> float:
        return float(self.layer.distances[places] + self.layer.times[time])


def literal(model: SequentialTransduction, inputs: Inputs) -> Tensor:
    keys, mask, targets, match, known = inputs
    zero = torch.zeros((), dtype=torch.float64)
    outputs = []
    for b in range(len(keys)):
        places = mask[b].nonzero()[:, 0].tolist()[-model.recent :]
        ages = [int(known.ages[b, at]) for at in places]
        xs, candidates = [keys[b, at] for at in places], list(targets[b])
        for layer in model.layers:
            assert isinstance(layer, Layer)
            form, n = Literal(layer), len(xs)
            candidates = [
                form.out(q, [(xs[j], form.bias(n - j, ages[j]), match[b, c, places[j]]) for j in range(n)]
                         + [(q, form.bias(0, 0), zero)])
                for c, q in enumerate(candidates)
            ]  # fmt: skip
            xs = [
                form.out(
                    x,
                    [
                        (xs[j], form.bias(i - j, bucket(max(0.0, seconds(ages[j]) - seconds(ages[i])))), zero)
                        for j in range(i + 1)
                    ],
                )
                for i, x in enumerate(xs)
            ]
        outputs += [torch.cat([q, normed(y - q, model.norm)]) for q, y in zip(targets[b], candidates, strict=True)]
    return torch.stack(outputs).view(*targets.shape[:2], -1)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize(("layers", "recent"), [(1, 5), (2, 1), (3, 9)])
def test_it_computes_its_equations(heads: int, layers: int, recent: int) -> None:
    model, inputs = SequentialTransduction(6, Hstu(recent=recent, heads=heads, layers=layers)), drawn(6)
    # Whole seconds, so that the test's own bucket of milliseconds is not a rounding away.
    inputs[4].ages.mul_(2).clamp_(max=40)
    randomised(model)
    with torch.no_grad():
        found, expected = model(*inputs), literal(model, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_time_between_ages_is_a_bucket_of_its_own() -> None:
    between = buckets_between()
    assert torch.equal(between[0], torch.arange(64)), "to a behaviour of now, it is the age itself"
    assert not between.tril().any(), "nothing lies between an age and one that is no greater"
    assert between[10, 11] == bucket(seconds(11) - seconds(10))


def test_the_last_layer_is_computed_for_candidates_alone() -> None:
    model = SequentialTransduction(6, Hstu(recent=9, layers=2))
    called = []
    for place, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        original = layer.among_behaviours
        layer.among_behaviours = lambda *given, of=original, at=place: called.append(at) or of(*given)  # type: ignore
    model.double()(*drawn(6))
    assert called == [0]


def test_an_untrained_candidate_attends_most_to_its_own_occurrence() -> None:
    torch.manual_seed(0)
    layer = Layer(32, 2, 50)
    x = torch.randn(1, 50, 32)
    _, _, query, _ = layer.parts(x[:, 17:18])
    _, _, _, key = layer.parts(x)
    logits = torch.bmm(query, key.mT)[:, 0]
    assert logits.argmax(dim=1).tolist() == [17, 17]
