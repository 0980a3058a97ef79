"""Updates of finite numbers that give answers which are not: refused before they are served."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np
import pytest
import torch

from model.embedding.initial import Initial
from model.embedding.table import EmbeddingTable
from model.errors import UpdateRefused
from model.example import Example
from model.learner import Learner
from model.network import Network
from model.predict import table_dims
from model.scorer import Scorer
from model.serialization.update import MAX_MAGNITUDE, Update
from model.trial import Trial
from state.behavior import BEHAVIOR
from tests.model.learning import KINDS, examples, learner_and_scorer, small

PROBE = examples(20, seed=99, catalogue=60)
HUGE = (3e38, 1e20, MAX_MAGNITUDE, 50.0)


def next_update(learner: Learner, kind: Literal["base", "delta"]) -> Update:
    learner.learn(examples(8, seed=9))
    delta = learner.delta("a")
    return delta if kind == "delta" else dataclasses.replace(learner.base("a"), version=delta.version)


def poisoned(update: Update) -> Iterator[tuple[str, Update]]:
    """Yield the update with each of its tensors huge, and with single numbers of it huge."""
    for name, tensor in update.tensors.items():
        if tensor.dtype != np.float32 or not tensor.size:
            continue
        for value in HUGE:
            whole = np.full_like(tensor, value)
            last = tensor.copy()
            last.reshape(-1)[-1] = value
            for what, changed in (("whole", whole), ("last", last)):
                yield f"{name} {what} {value:g}", dataclasses.replace(update, tensors={**update.tensors, name: changed})


def refusal(scorer: Scorer, update: Update) -> str | None:
    try:
        scorer.prepare(update)
    except UpdateRefused as refused:
        return refused.reason
    return None


def finite(scorer: Scorer) -> bool:
    return all(np.isfinite(each).all() for each in scorer.score(PROBE))


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind in ("din", "mean", "counts") else []) for kind in KINDS],
)
@pytest.mark.parametrize("update_kind", [pytest.param("base", marks=pytest.mark.slow), "delta"])
def test_huge_numbers_are_refused_or_give_finite_answers(kind: str, update_kind: Literal["base", "delta"]) -> None:
    learner, scorer = learner_and_scorer(kind)
    update = next_update(learner, update_kind)
    before, served = scorer.score(PROBE), scorer.version
    refused = 0
    for what, bad in poisoned(update):
        if (reason := refusal(scorer, bad)) is not None:
            assert reason == "non-finite", what
            refused += 1
            continue
        other = Scorer(small(kind))
        other.apply(dataclasses.replace(learner.base("a"), version=1))
        other.apply(bad)
        assert finite(other), what
    assert refused > 0 or kind == "random"
    assert scorer.version == served
    assert all(np.array_equal(one, other) for one, other in zip(before, scorer.score(PROBE), strict=True))
    scorer.apply(update)
    assert finite(scorer)


def tried(kind: str, *, length: int | None = None, asked: Example | None = None, **changed: float) -> bool:
    """Try the first parameters of a model with some numbers changed.

    Args:
        kind: of the model.
        length: of its sequences, if another than its own.
        asked: the newest request.
        changed: the last row of a tensor (dots as underscores), the new row of a table, or `known`: the row of item 77
            that is served already.
    """
    spec = small(kind) if length is None else msgspec.structs.replace(small(kind), length=length)
    dense = {name: tensor.clone() for name, tensor in Network(spec).state_dict().items()}
    tables = {name: EmbeddingTable(dim, initial=Initial(0, 0.05)) for name, dim in table_dims(spec).items()}
    moved = {name: (np.arange(1, 4, dtype=np.uint64), torch.zeros(3, dim)) for name, dim in table_dims(spec).items()}
    for name, value in changed.items():
        if name == "known":
            tables["item"].assign(np.array([77], np.uint64), torch.full((1, spec.item_dim), value))
        elif name in moved:
            moved[name][1][1] = value
        else:
            [found] = [each for each in dense if each.replace(".", "_") == name]
            dense[found][-1] = value
    return Trial(spec, device=torch.device("cpu")).finite(dense, tables, moved, asked)


@pytest.mark.parametrize("length", [1, 10, 64, 1000])
@pytest.mark.parametrize("kind", ["sam", "din", "mean"])
def test_a_trial_reads_every_action_every_age_and_the_largest_rows(kind: str, length: int) -> None:
    """Infinity is in no update; here it shows what is read, whether or not a kernel overflows at large numbers."""
    assert tried(kind, length=length)
    assert not tried(kind, length=length, actions_weight=np.inf)
    assert not tried(kind, length=length, gaps_weight=np.inf)
    assert not tried(kind, length=length, item=np.inf)
    assert not tried(kind, length=length, category=np.inf)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_knows_of_answers_that_overflow(kind: str) -> None:
    assert tried(kind)
    if kind == "popularity":
        assert not tried(kind, item=3e38, category=3e38)
    elif kind != "random":
        assert not tried(kind, head_0_weight=3e38)


def test_a_trial_asks_what_was_asked_last() -> None:
    sequence = np.zeros(1, BEHAVIOR)
    sequence["item"] = 77
    asked = Example(sequence, 0, np.array([5], np.uint64), np.zeros(1, np.uint32))
    assert tried("din", asked=asked)
    assert tried("din", known=3e38), "nothing has asked for that row"
    assert not tried("din", known=3e38, asked=asked)


def test_what_cannot_be_tried_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, scorer = learner_and_scorer("sam")
    update = next_update(learner, "delta")

    def broken(*_: object) -> bool:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "finite", broken)
        with pytest.raises(UpdateRefused, match=r"failed: .*out of memory"):
            scorer.prepare(update)
    scorer.apply(update)
