"""MIMN against its equations, one user, behaviour and slot at a time."""

import math

import pytest
import torch
from torch import Tensor

from model.interest.base import Outcome
from model.interest.mimn import InterestMemory
from model.interest.options import Mimn
from tests.model.interest.drawn import Inputs, drawn, normed, randomised


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum() / (one.square().sum() * other.square().sum()).sqrt()


class Literal:
    """A memory, and the steps that behaviours take in it."""

    def __init__(self, model: InterestMemory) -> None:
        self.model = model
        self.slots = [row.clone() for row in model.initial]
        self.state = torch.zeros(model.d, dtype=torch.float64)
        self.read = model.first_read.tanh()
        self.sums = [torch.zeros(model.d, dtype=torch.float64) for _ in self.slots]
        self.weights: list[Tensor] = []

    def addressed(self, head: Tensor) -> Tensor:
        key, beta = head[:-1].tanh(), 2 * (torch.log(1 + torch.exp(head[-1])) + 1)
        nearness = [
            (cosine(key, table.tanh()) + cosine(key, slot)) / 2
            for table, slot in zip(self.model.slot_keys, self.slots, strict=True)
        ]
        return (beta * torch.stack(nearness)).softmax(0)

    def controlled(self, x: Tensor) -> Tensor:
        """Let the controller read x and the memory."""
        given = torch.cat([x, self.read]).unsqueeze(0)
        self.state = self.model.cell(given, self.state.unsqueeze(0))[0]
        weights = self.addressed(self.model.read_head(self.state).clamp(-20, 20))
        self.read = torch.stack([w * slot for w, slot in zip(weights, self.slots, strict=True)]).sum(0)
        return torch.cat([self.state, self.read])

    def behave(self, x: Tensor) -> None:
        before = list(self.slots)
        self.controlled(x)
        head = self.model.write_head(self.state).clamp(-20, 20)
        d = self.model.d
        weights = self.addressed(head[: d + 1])
        erase, add = head[d + 1 : 2 * d + 1].sigmoid(), head[2 * d + 1 :].tanh()
        self.slots = [slot * (1 - w * erase) + w * add for w, slot in zip(weights, before, strict=True)]
        self.sums = [total + w * add for w, total in zip(weights, self.sums, strict=True)]
        self.weights.append(weights)


def literal(model: InterestMemory, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the outputs, and the variance of each user's mean write weights."""
    keys, mask, targets, _, _ = inputs
    outputs, variances = [], []
    for b in range(len(keys)):

        def remembered(row: int = b) -> Literal:
            memory = Literal(model)
            for place in mask[row].nonzero()[:, 0].tolist()[-model.recent :]:
                memory.behave(keys[row, place])
            return memory

        memory = remembered()
        mean = torch.stack(memory.weights).mean(0) if memory.weights else torch.zeros(len(memory.slots))
        variances.append((mean - mean.mean()).square().mean())
        added = normed(torch.stack(memory.sums).mean(0), model.norm)
        outputs += [torch.cat([q, model.out(remembered().controlled(q)), q * added]) for q in targets[b]]
    return torch.stack(outputs).view(*targets.shape[:2], -1), torch.stack(variances)


@pytest.mark.parametrize(("recent", "slots"), [(1, 2), (5, 3), (9, 4), (30, 1)])
def test_it_computes_its_equations(recent: int, slots: int) -> None:
    model, inputs = InterestMemory(6, Mimn(recent=recent, slots=slots)), drawn(6)
    randomised(model)
    with torch.no_grad():
        expected, variances = literal(model, inputs)
        torch.testing.assert_close(model(*inputs), expected, rtol=1e-9, atol=1e-9)
        vectors, extra = model.learn(*inputs)
    torch.testing.assert_close(vectors, expected, rtol=1e-9, atol=1e-9)
    assert extra is not None
    logits = torch.zeros(vectors.shape[:2])
    weight = Mimn().utilisation
    assert float(extra(Outcome(logits, logits, inputs[4].target_mask))) == pytest.approx(
        weight * float(variances.mean())
    )


def test_what_is_written_depends_on_no_candidate() -> None:
    model = InterestMemory(6, Mimn())
    randomised(model)
    keys, mask, *_ = drawn(6)
    memory = model.remember(keys, mask)
    assert not torch.equal(memory.slots[0], memory.slots[3])
    assert torch.equal(memory.slots[1], model.initial), "without behaviours nothing is written"
    assert not memory.written[1].any()
    alone = model.remember(keys[3:4, :4], mask[3:4, :4])
    torch.testing.assert_close(alone.slots, memory.slots[3:4], rtol=1e-12, atol=1e-12)


def test_sums_teach_what_to_add_and_not_where() -> None:
    """As in the released code, no gradient of the sum goes through the weights; that of the slots does."""
    model = InterestMemory(6, Mimn(recent=1))
    randomised(model)
    keys, mask, *_ = drawn(6)
    heads = model.write_head.weight
    [of_sum] = torch.autograd.grad(model.remember(keys, mask).added.sum(), heads)
    [of_slots] = torch.autograd.grad(model.remember(keys, mask).slots.sum(), heads)
    assert not of_sum[:7].any()
    assert of_sum[-6:].any()
    assert of_slots[:7].any()


def test_the_regulariser_has_slots_used_alike() -> None:
    model, inputs = InterestMemory(6, Mimn(utilisation=1.0)), drawn(6, lengths=(9, 7, 8))
    randomised(model)
    logits = torch.zeros(3, 3)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(25):
        _, extra = model.learn(*inputs)
        assert extra is not None
        loss = extra(Outcome(logits, logits, inputs[4].target_mask))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    assert InterestMemory(6, Mimn(utilisation=0)).double().learn(*inputs)[1] is None


def test_huge_keys_leave_something_finite() -> None:
    model = InterestMemory(6, Mimn())
    keys, mask, targets, *_ = drawn(6)
    memory = model.double().remember(1e18 * keys, mask)
    assert all(tensor.isfinite().all() for tensor in (memory.slots, memory.state, memory.read, memory.added))
    assert math.isfinite(float(model(1e18 * keys, mask, targets).sum().detach()))
