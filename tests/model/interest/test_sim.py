"""Both searches against behaviours that are compared one by one, and what the search learns from."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from model.errors import SpecError
from model.interest.base import Known, Outcome
from model.interest.options import SimHard, SimSoft
from model.interest.sim import HardSearch, SoftSearch
from tests.model.interest.drawn import drawn, normed, randomised
from tests.model.interest.test_retrieval import best, literal_attention, unit


def with_categories(known: Known) -> Known:
    """Give candidates the categories 0 to C − 1, and behaviours the same ones."""
    C = known.target_items.shape[1]
    return replace(
        known, categories=known.items % C, target_categories=torch.arange(C).expand_as(known.target_categories)
    )


@pytest.mark.parametrize("retrieved", [1, 2, 100])
def test_hard_search_reads_the_newest_of_the_category(retrieved: int) -> None:
    torch.manual_seed(0)
    keys, mask, targets, match, known = drawn(lengths=(30, 0, 1, 4, 17))
    known = with_categories(known)
    model = HardSearch(6, SimHard(retrieved=retrieved))
    randomised(model)
    vectors = model(keys, mask, targets, match, known)
    found = 0
    for b, c in [(b, c) for b in range(len(mask)) for c in range(targets.shape[1])]:
        same = [at for at in range(int(mask[b].sum())) if c and known.categories[b, at] == c]
        places = same[-retrieved:]
        found += len(places)
        readout = literal_attention(
            model.attention, targets[b, c], [keys[b, at] for at in places], [match[b, c, at] for at in places]
        )
        torch.testing.assert_close(vectors[b, c], torch.cat([targets[b, c], readout, targets[b, c] * readout]))
    assert found


def test_without_a_category_nothing_is_found() -> None:
    torch.manual_seed(0)
    keys, mask, targets, match, known = drawn(lengths=(9, 7))
    none = replace(known, categories=torch.zeros_like(known.categories))
    model = HardSearch(6, SimHard()).double()
    readouts = model(keys, mask, targets, match, none)[..., 6:12]
    assert torch.equal(readouts, model.attention.norm.bias.expand_as(readouts))


@torch.no_grad()
def test_soft_search_equals_its_literal_form() -> None:
    torch.manual_seed(0)
    keys, mask, targets, match, known = drawn(lengths=(30, 0, 1, 4, 17))
    model = SoftSearch(6, SimSoft(retrieved=3))
    randomised(model)
    vectors = model(keys, mask, targets, match, known)
    logits = model.search_logits(unit_rows(keys, mask), targets)
    for b, c in [(b, c) for b in range(len(mask)) for c in range(targets.shape[1])]:
        q, there = targets[b, c], list(keys[b, mask[b]])
        scores = [(model.of_target.weight @ unit(q)) @ (model.of_key.weight @ unit(key)) for key in there]
        places = best([float(score) for score in scores], range(len(there)), 3)
        readout = literal_attention(
            model.attention, q, [there[at] for at in places], [match[b, c, at] for at in places]
        )
        torch.testing.assert_close(vectors[b, c], torch.cat([q, readout, q * readout]))
        total = sum((score * unit(key) for score, key in zip(scores, there, strict=True)), torch.zeros_like(q))
        u = normed(total, model.sum_norm)
        torch.testing.assert_close(logits[b, c], model.auxiliary_head(torch.cat([q, u, q * u])).squeeze())


def unit_rows(keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows = torch.zeros_like(keys)
    for b, at in mask.nonzero().tolist():
        rows[b, at] = unit(keys[b, at])
    return rows


def gradients(model: SoftSearch, loss: torch.Tensor) -> dict[str, bool]:
    """Return of which parameters a loss has a gradient."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name: gradient is not None and bool(gradient.any()) for name, gradient in zip(names, found, strict=True)}


def learned(weight: float = 1.0) -> tuple[SoftSearch, torch.Tensor, torch.Tensor]:
    """Return a model, what leaves it, and its auxiliary loss."""
    torch.manual_seed(0)
    given: Any = drawn(lengths=(30, 3, 17))
    mask, targets = given[1], given[2]
    model = SoftSearch(6, SimSoft(retrieved=3, auxiliary=weight))
    randomised(model)
    vectors, extra = model.learn(*given)
    assert extra is not None
    labels = (torch.arange(targets[..., 0].numel()).view_as(targets[..., 0]) % 2).double()
    everyone = torch.ones(len(mask), targets.shape[1], dtype=torch.bool)
    return model, vectors, extra(Outcome(torch.zeros_like(labels), labels, everyone))


def test_the_search_learns_by_its_own_loss_alone_and_the_attention_by_the_other() -> None:
    model, vectors, extra = learned()
    of_search = ("of_target", "of_key", "sum_norm", "auxiliary_head")
    by_click, by_search = gradients(model, vectors.sin().sum()), gradients(model, extra)
    assert all(by_click[name] != name.startswith(of_search) for name in by_click)
    assert all(by_search[name] == name.startswith(of_search) for name in by_search)


def test_the_weight_of_the_loss_scales_it() -> None:
    _, vectors, one = learned()
    _, same, tenth = learned(0.1)
    assert torch.equal(vectors, same)
    torch.testing.assert_close(tenth, 0.1 * one)


def test_the_search_learns_what_is_wanted_where_likeness_misleads() -> None:
    """Clicks go with the second half of an embedding alone; the first is larger, and noise."""
    torch.manual_seed(1)
    d, L, C, B = 8, 20, 4, 32
    model = SoftSearch(d, SimSoft(retrieved=1))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    vocabulary = torch.randn(12, d // 2)
    there, everyone = torch.ones(B, L, dtype=torch.bool), torch.ones(B, C, dtype=torch.bool)

    def world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kinds, wanted = torch.randint(0, 4, (B, L)) + torch.randint(0, 9, (B, 1)), torch.randint(0, 12, (B, C))
        keys, targets = (
            torch.cat([3 * torch.randn(*of.shape, d // 2), vocabulary[of]], dim=-1) for of in (kinds, wanted)
        )
        return keys, targets, (kinds.unsqueeze(1) == wanted.unsqueeze(2)).any(dim=2).float()

    def agreement() -> float:
        """Return how often the best behaviour of a clicked candidate is of its kind."""
        hits = []
        for _ in range(10):
            keys, targets, labels = world()
            rows = torch.nn.functional.layer_norm(keys, (d,))
            best_of = (model._queries(targets) @ rows.mT).argmax(dim=-1)
            picked = keys.gather(1, best_of.unsqueeze(-1).expand(-1, -1, d))[..., d // 2 :]
            hits.append((picked == targets[..., d // 2 :]).all(dim=-1)[labels == 1].float())
        return float(torch.cat(hits).mean())

    known: Any = None
    before = agreement()
    for _ in range(100):
        keys, targets, labels = world()
        _, extra = model.learn(keys, there, targets, None, known)
        assert extra is not None
        optimiser.zero_grad()
        torch.autograd.backward(extra(Outcome(torch.zeros_like(labels), labels, everyone)))
        optimiser.step()
    assert agreement() > before + 0.1


def test_a_search_without_a_loss_is_refused() -> None:
    with pytest.raises(SpecError, match=r"auxiliary is 0\.0, but must be above 0"):
        SimSoft(auxiliary=0.0).check(100)
