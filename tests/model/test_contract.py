"""What every registered kind of model must do: learn, resume, be followed, and bear any size."""

from dataclasses import replace as changed

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from model.batch import collate
from model.example import LATE_CLICK, Example
from model.interest.base import Outcome
from model.interest.options import KINDS, Dman, Interest, Sar
from model.learner import Learner
from model.network import Network
from model.predict import batch_keys, embedded, table_dims
from model.scorer import Scorer
from model.serialization.update import decode, encode
from model.spec import PRESETS, ModelSpec, OptimSpec, preset
from tests.model.worlds import NOW, example

OPTIONS: dict[str, Interest] = {
    "dman": Dman(segment=8, slots=3),
    "sar": Sar(lengths=(5, 10, 40)),
}
"""What is chosen of a kind whose defaults do not fit so short a sequence."""
LENGTH = 40
FORGETFUL = OptimSpec(expire_after_s=2.0, admit_after=2, admission_keys=64, max_rows=15)
"""What rows hardly ever stay with: in `later` a second passes from one step to the next, and there are 20 items."""
LEARNING = [kind for kind in KINDS if kind != "random"]


def small(kind: str) -> ModelSpec:
    spec = preset(kind)
    if kind == "popularity":
        return spec
    options = OPTIONS.get(kind, spec.interest)
    return replace(spec, interest=options, item_dim=3, category_dim=5, hidden=(8,), length=LENGTH)


def examples(seed: int, count: int = 6) -> list[Example]:
    rng = np.random.default_rng(seed)
    sizes = [(0, 2), (3, 1), (LENGTH + 20, 5), (LENGTH, 2)]
    return [example(rng, *sizes[int(rng.integers(len(sizes)))]) for _ in range(count)]


def later(seed: int) -> list[Example]:
    """Return examples of a moment that is so many seconds later, of which one at least has a short history."""
    return [changed(each, ts=NOW + 1000 * seed) for each in examples(seed, 1 + seed % 3)]


@pytest.fixture(params=LEARNING)
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return small(request.param)


def test_every_kind_has_a_preset() -> None:
    assert PRESETS.keys() >= KINDS.keys()
    assert all(preset(kind).kind == kind for kind in KINDS)


@pytest.mark.long
def test_a_checkpoint_resumes_to_the_bit(spec: ModelSpec) -> None:
    learner, resumed = (Learner(spec, FORGETFUL, seed=3) for _ in range(2))
    for seed in range(4):
        learner.learn(later(seed))
    resumed.load_state(learner.state())
    for seed in range(4, 7):
        for one, other in zip(learner.learn(later(seed)), resumed.learn(later(seed)), strict=True):
            assert one.tobytes() == other.tobytes()
    before, after = learner.state(), resumed.state()
    assert before.keys() == after.keys()
    assert [name for name in before if before[name].tobytes() != after[name].tobytes()] == []


@pytest.mark.long
def test_a_scorer_that_follows_deltas_equals_one_that_takes_the_base(spec: ModelSpec) -> None:
    learner, follower, asked = Learner(spec, FORGETFUL, seed=3), Scorer(spec, seed=3), examples(9)
    learner.begin_epoch(1)
    follower.apply(learner.base("a"))
    tombstones = set()
    for seed in range(8):
        learner.learn(later(seed))
        update = learner.delta("a")
        tombstones |= {name.partition("/")[0] for name in update.tensors if name.endswith("/gone")}
        follower.apply(decode(encode(update)))
    late = Scorer(spec, seed=3)
    late.apply(learner.base("a"))
    learned = learner.predict(asked)
    for one, other, theirs in zip(follower.score(asked), late.score(asked), learned, strict=True):
        assert one.tobytes() == other.tobytes() == theirs.tobytes()
    assert tombstones >= {table for table in table_dims(spec) if table.startswith("item")}


@pytest.mark.long
def test_steps_change_what_is_predicted_and_reach_every_parameter(spec: ModelSpec) -> None:
    learner = Learner(spec, seed=3)
    batch, start = examples(1), learner.state()
    before = learner.predict(batch)
    for _ in range(30):
        learner.learn(batch)
    assert learner.skipped == 0
    assert all((one != other).any() for one, other in zip(before, learner.predict(batch), strict=True))
    end = learner.state()
    parameters = [f"network/{name}" for name, _ in Network(spec).named_parameters()]
    assert [name for name in parameters if (start[name] == end[name]).all()] == []
    assert all(learner.rows[table] > 0 for table in table_dims(spec))


def test_a_late_click_is_learned_by_every_kind(spec: ModelSpec) -> None:
    learner = Learner(spec, seed=3)
    [first, *_] = [each for each in examples(2) if len(each.items) > 1]
    assert first.labels is not None
    learner.learn([first])
    late = changed(first, labels=np.full_like(first.labels, LATE_CLICK))
    learner.learn([late])
    assert (learner.steps, learner.skipped) == (2, 0)


@pytest.mark.parametrize(("length", "candidates"), [(0, 1), (1, 1), (1000, 1), (1, 1000), (1000, 60)])
def test_every_size_is_answered(spec: ModelSpec, length: int, candidates: int) -> None:
    if spec.length:
        spec = replace(spec, length=1000)
    [scores] = Scorer(spec).score([example(np.random.default_rng(1), length, candidates)])
    assert scores.shape == (candidates,)
    assert np.isfinite(scores).all()


@pytest.mark.long
@pytest.mark.parametrize("scale", [1e4, 1e18])
def test_huge_embeddings_raise_nothing(spec: ModelSpec, scale: float) -> None:
    """What is not finite is refused before it is served; see `model.trial`."""
    network = Network(spec, seed=3)
    batch = collate(examples(3), length=max(spec.length, 1), numbers=spec.numbers)
    keys = batch_keys(batch)
    generator = torch.Generator().manual_seed(0)
    vectors = {
        name: scale * torch.randn(len(keys[name]), dim, generator=generator) for name, dim in table_dims(spec).items()
    }
    with torch.inference_mode():
        served = network(batch, embedded(batch, vectors))
    logits, extra = network.learn(batch, embedded(batch, vectors))
    assert served.shape == logits.shape == batch.target_mask.shape
    if extra is not None:
        assert batch.labels is not None
        assert extra(Outcome(logits, batch.labels, batch.target_mask)).shape == ()
