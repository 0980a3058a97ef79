"""Models that begin with what others have learned: what fits is theirs, the rest is as new, and both learn on."""

import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

from model.interest.options import Sam
from model.learner import Learner
from model.network import Network
from model.predict import table_dims
from model.spec import ModelSpec, preset
from model.warm_start import WarmStart, warm_start
from tests.model.test_contract import LEARNING, examples, small


def learned(spec: ModelSpec, steps: int = 6) -> Learner:
    learner = Learner(spec, seed=3)
    for seed in range(steps):
        learner.learn(examples(seed))
    return learner


def started(source: Learner, before: ModelSpec, spec: ModelSpec) -> tuple[WarmStart, Learner]:
    new = Learner(spec, seed=3)
    found = warm_start(source.state(), before, new.state(), spec)
    new.load_state(found.state)
    return found, new


def predictions(learner: Learner) -> npt.NDArray[np.float32]:
    return np.concatenate(learner.predict(examples(99)))


@pytest.mark.long
@pytest.mark.parametrize("kind", LEARNING)
def test_the_same_model_goes_on_to_the_bit(kind: str) -> None:
    spec = small(kind)
    source = learned(spec)
    found, new = started(source, spec, spec)
    assert not found.fresh
    assert not found.partly
    assert not found.unused
    for seed in range(50, 53):
        for one, other in zip(source.learn(examples(seed)), new.learn(examples(seed)), strict=True):
            assert one.tobytes() == other.tobytes()


@pytest.mark.long
@pytest.mark.parametrize("kind", LEARNING)
def test_every_kind_takes_the_tables_of_the_default_and_says_what_of_it_is_new(kind: str) -> None:
    before, spec = small("sam"), small(kind)
    source = learned(before)
    found, new = started(source, before, spec)
    learned_state = source.state()
    own = {name for name, _ in Network(spec).state_dict().items()}
    named = [*found.kept, *found.partly, *(name for name in found.fresh if not name.startswith("table "))]
    assert sorted(named) == sorted(own), "each parameter and buffer is named once"
    shared = {name for name in ("item", "category") if table_dims(spec).get(name) == table_dims(before)[name]}
    assert found.rows == {name: source.rows[name] for name in shared}
    assert {name for name in found.fresh if name.startswith("table ")} == {
        f"table {name}" for name in table_dims(spec).keys() - shared
    }
    initial, state = Learner(spec, seed=3).state(), new.state()
    for name in found.fresh:
        if not name.startswith("table "):
            for part in ("network", "served"):
                assert state[f"{part}/{name}"].tobytes() == initial[f"{part}/{name}"].tobytes(), name
    by_name = Network(spec).axes  # of these, it may be only some columns of the other's
    for name in found.kept:
        ours, theirs = state[f"network/{name}"], learned_state[f"network/{name}"]
        assert name in by_name or ours.tobytes() == theirs.tobytes(), name
        assert np.isin(ours, theirs).all(), name
    for table in shared:
        assert state[f"{table}/keys"].tobytes() == learned_state[f"{table}/keys"].tobytes()
    new.begin_epoch(1)
    for seed in range(2):
        new.learn(examples(seed))
    assert new.skipped == 0
    assert np.isfinite(predictions(new)).all()


def test_numbers_of_the_head_are_taken_over_by_name_and_the_rest_of_it_begins_at_zero() -> None:
    before, spec = small("counts"), small("din")
    source = learned(before)
    found, new = started(source, before, spec)
    common, inputs = found.partly["head.0.weight"]
    width = source.state()["network/head.0.weight"].shape[1]
    assert (common, inputs) == (width, new.state()["network/head.0.weight"].shape[1])
    # What counts has learned is a part of what din reads: until it learns, both say the same.
    np.testing.assert_allclose(predictions(new), predictions(source), atol=1e-6)


def test_an_option_that_adds_layers_names_them_and_keeps_the_others() -> None:
    before = small("sam")
    spec = replace(before, interest=Sam(passes=3))
    found, _ = started(learned(before), before, spec)
    assert {name.rsplit(".", 2)[0] for name in found.fresh} == {"interest.attentions.2"}
    assert not found.partly
    fewer, _ = started(learned(spec), spec, before)
    assert not fewer.fresh
    assert {name.rsplit(".", 2)[0] for name in fewer.unused} == {"interest.attentions.2"}


def test_a_head_of_other_widths_begins_afresh_from_its_first_new_layer_on() -> None:
    before = replace(small("din"), hidden=(8, 4))
    spec = replace(before, hidden=(8, 6))
    found, new = started(learned(before), before, spec)
    assert {name for name in found.kept if name.startswith("head.")} == {
        f"head.{place}" for place in ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight")
    }
    assert {name for name in found.fresh if name.startswith("head.")} == {
        f"head.{place}" for place in ("3.weight", "3.bias", "4.weight", "4.bias", "5.weight", "6.weight", "6.bias")
    }
    # As in a new arm, the head of what predicts says nothing; it follows at once, though, since clicks are not alone.
    assert not new.state()["served/head.6.weight"].any()
    new.learn(examples(1))
    assert new.state()["served/head.6.weight"].any()


def test_tables_that_mean_something_else_are_not_taken_over() -> None:
    before = replace(small("sam"), item_dim=1, category_dim=1)
    found, _ = started(learned(before, 3), before, preset("popularity"))
    assert not found.rows
    assert not found.kept
    assert found.fresh == ["baseline.bias", "table item", "table category"]
