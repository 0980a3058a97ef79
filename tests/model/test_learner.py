"""The learner: it learns, predicts first, skips what is not finite, goes on from its state exactly."""

import dataclasses
import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from model.batch import collate
from model.errors import CheckpointError
from model.example import LATE_CLICK, Example
from model.interest.baselines import PRIOR
from model.learner import WHOLE_BATCH, Learner
from model.metrics import auc, normalised_entropy
from model.network import Embedded, Network
from model.serialization.update import Update, Version
from model.spec import OptimSpec
from state.behavior import BEHAVIOR
from tests.model.learning import KINDS, batches, examples, small


def assert_same(left: list[npt.NDArray[np.float32]], right: list[npt.NDArray[np.float32]]) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def contents(update: Update) -> dict[str, object]:
    """Return dense tensors, and the rows of tables as dicts by key, comparable whatever the order of rows."""
    found: dict[str, object] = {}
    for name, tensor in update.tensors.items():
        table, _, part = name.partition("/")
        if not part:
            found[name] = tensor.tolist()
        elif part == "keys":
            values = update.tensors[f"{table}/values"].tolist()
            found[table] = dict(zip(tensor.tolist(), values, strict=True))
    return found


@pytest.mark.long
@pytest.mark.parametrize("kind", ["din", "mean"])
def test_it_learns_what_can_only_be_known_from_the_items(kind: str) -> None:
    learner = Learner(small(kind))
    labels, predicted = [], []
    for number, batch in enumerate(batches(150, seed=1)):
        got = learner.learn(batch)
        if number >= 75:
            predicted += got
            labels += [example.labels for example in batch if example.labels is not None]
    assert auc(np.concatenate(labels), np.concatenate(predicted)) > 0.8
    assert normalised_entropy(np.concatenate(labels), np.concatenate(predicted)) < 0.8
    assert learner.steps == 150


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_returned_was_predicted_before_the_step(kind: str) -> None:
    learner, bystander = Learner(small(kind), seed=4), Learner(small(kind), seed=4)
    for batch in batches(5, seed=2):
        before = learner.predict(batch)
        got = learner.learn(batch)
        assert [len(each) for each in got] == [len(example.items) for example in batch]
        assert all(each.dtype == np.float32 for each in got)
        np.testing.assert_allclose(np.concatenate(got), np.concatenate(before), atol=1e-6)
        moved = np.abs(np.concatenate(got) - np.concatenate(learner.predict(batch))).max() > 1e-6
        assert moved == (kind != "random")
        bystander.learn(batch)
    assert contents(learner.base("a")) == contents(bystander.base("a"))


def test_labels_do_not_reach_the_predictions_made_for_them() -> None:
    batch = examples(8, seed=3)
    ones = [dataclasses.replace(example, labels=np.ones(len(example.items), np.float32)) for example in batch]
    assert_same(Learner(small("sam")).learn(batch), Learner(small("sam")).learn(ones))


@pytest.mark.long
def test_a_click_that_comes_alone_weighs_no_more_than_what_comes_together() -> None:
    learner, rng = Learner(small("counts")), np.random.default_rng(0)
    predicted = []
    for _ in range(250):
        for count, label in ((1, 1.0), (9, 0.0)):
            [example] = examples(1, seed=int(rng.integers(1 << 30)))
            items = rng.choice(example.items, count)
            labels = np.full(count, label, np.float32)
            categories = np.zeros(count, np.uint32)
            few = dataclasses.replace(example, items=items, categories=categories, labels=labels, numbers=None)
            predicted += learner.learn([few])
    lately = np.concatenate(predicted)[-2000:]
    assert 0.07 < lately.mean() < 0.13, "one in ten was clicked"


def test_one_dense_step_is_adam_on_the_mean_loss_of_the_real_candidates() -> None:
    spec, batch = small("counts"), examples(8, seed=4)
    learner, network = Learner(spec, OptimSpec(clip_norm=1e9, ema_decay=0.0), seed=2), Network(spec, seed=2)
    learner.learn(batch)
    # One example at a time has no padded candidate, so nothing but real ones can enter the mean.
    optimizer = torch.optim.Adam(network.parameters(), lr=OptimSpec().dense_lr)
    total = sum(len(example.items) for example in batch)
    for example in batch:
        one = collate([example], length=spec.length, numbers=spec.numbers)
        assert one.labels is not None
        loss = functional.binary_cross_entropy_with_logits(network(one, Embedded()), one.labels, reduction="sum")
        (loss / max(total, WHOLE_BATCH)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    dense = learner.base("a").tensors
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(dense[name], parameter.detach().numpy(), atol=2e-5)


@pytest.mark.long
def test_what_predicts_is_the_average_of_the_dense_parameters_and_the_same_tables() -> None:
    stream, average = batches(40, seed=21), 0.9
    raw, averaged = (Learner(small("sam"), OptimSpec(ema_decay=share), seed=3) for share in (0.0, average))
    expected = {name: array.copy() for name, array in raw.base("a").tensors.items() if "/" not in name or "." in name}
    for step, batch in enumerate(stream, start=1):
        raw.learn(batch)
        averaged.learn(batch)
        kept = min(average, (1 + step) / (10 + step))
        for name, array in raw.base("a").tensors.items():
            if name.startswith("standardise."):  # they are averages already
                expected[name] = array
            elif name in expected:
                expected[name] = kept * expected[name] + (1 - kept) * array
    got, learned = averaged.base("a").tensors, raw.base("a").tensors
    dense = [name for name in expected if not name.startswith(("item/", "category/"))]
    assert len(dense) > 10
    last = f"head.{max(int(name.split('.')[1]) for name in dense if name.startswith('head.'))}.bias"
    for name in set(dense) - {last}:  # the intercept is corrected as well
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5)
    for name in ("item/keys", "item/values", "category/values"):
        np.testing.assert_array_equal(got[name], learned[name])


@pytest.mark.long
@pytest.mark.parametrize("position", [True, False])
def test_an_item_is_not_better_for_having_stood_first(position: bool) -> None:
    """All items are liked alike; those of even keys stand first, where three times as many are looked at."""
    spec = msgspec.structs.replace(small("din"), position=position)
    rng, learner = np.random.default_rng(31), Learner(spec, seed=5)
    nobody, categories = np.zeros(0, BEHAVIOR), np.zeros(2, np.uint32)
    for step in range(250):
        shown = []
        for _ in range(16):
            even, odd = 2 * rng.integers(1, 6), 2 * rng.integers(1, 6) + 1
            # Now and then the odd one comes first: without any, nothing tells an item from its place.
            items = np.array([even, odd] if rng.random() < 0.8 else [odd, even], np.uint64)
            clicked = (rng.random(2) < 0.6) & (rng.random(2) < (0.9, 0.3))
            places = np.arange(2, dtype=np.uint16)
            shown.append(Example(nobody, step, items, categories, clicked.astype(np.float32), positions=places))
        learner.learn(shown)
    asked = Example(nobody, 250, np.arange(2, 12, dtype=np.uint64), np.zeros(10, np.uint32))
    [predicted] = learner.predict([asked])
    ratio = predicted[::2].mean() / predicted[1::2].mean()
    assert (abs(ratio - 1) < 0.15) == position, ratio


@pytest.mark.long
def test_predictions_keep_up_with_a_click_rate_that_changes() -> None:
    """An average lags; without its correction, the predictions of the last rate would last for a hundred steps."""
    rng, learner = np.random.default_rng(22), Learner(small("counts"), seed=4)
    predicted: list[np.ndarray] = []
    for step in range(160):
        rate = 0.05 if step < 120 else 0.4
        batch = [
            dataclasses.replace(each, labels=(rng.random(len(each.items)) < rate).astype(np.float32))
            for each in examples(64, seed=step)
        ]
        predicted.append(np.concatenate(learner.learn(batch)))
    assert np.concatenate(predicted[100:120]).mean() == pytest.approx(0.05, abs=0.01)
    assert np.concatenate(predicted[145:]).mean() == pytest.approx(0.4, abs=0.05)


@pytest.mark.long
def test_clicks_alone_change_nothing_of_what_predicts() -> None:
    """The first windows of a stream have nothing else, and mean no click rate of one."""
    learners = [Learner(small("counts"), OptimSpec(ema_decay=share), seed=4) for share in (0.0, 0.99)]
    clicks = [
        [dataclasses.replace(each, labels=np.ones_like(each.labels)) for each in examples(8, seed=step)]
        for step in range(30)
    ]
    for batch in clicks:
        raw, averaged = (np.concatenate(learner.learn(batch)).mean() for learner in learners)
    assert averaged == pytest.approx(PRIOR)
    assert raw > 0.7
    restored = Learner(small("counts"), seed=4)
    restored.load_state(learners[1].state())
    assert_same(restored.learn(clicks[0]), learners[1].learn(clicks[0]))
    assert_same(restored.learn(clicks[1]), learners[1].learn(clicks[1]))


@pytest.mark.parametrize("kind", ["sam", "din", "mean", "counts", "popularity"])
def test_until_something_unclicked_is_learned_all_candidates_get_the_prior(kind: str) -> None:
    learner, batch = Learner(small(kind), seed=5), examples(8, seed=1)
    np.testing.assert_allclose(np.concatenate(learner.predict(batch)), PRIOR, atol=1e-6)
    learner.learn(batch)
    assert np.ptp(np.concatenate(learner.predict(batch))) > 1e-4


def with_labels(example: Example, labels: npt.NDArray[Any]) -> Example:
    return dataclasses.replace(example, labels=labels.astype(np.float32))


def test_the_loss_of_a_late_click_is_that_of_a_click_less_that_of_none() -> None:
    """Together with the step on label 0 that went before, the gradient is that of one click."""
    spec, rng = small("counts"), np.random.default_rng(3)
    learner, network = Learner(spec, OptimSpec(clip_norm=1e9, ema_decay=0.0), seed=2), Network(spec, seed=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=OptimSpec().dense_lr)
    for seed in range(3):
        batch = [with_labels(each, rng.integers(0, 3, len(each.items))) for each in examples(80, seed=seed)]
        learner.learn(batch)
        total = sum(len(example.items) for example in batch)
        losses = []
        for example in batch:
            one = collate([example], length=spec.length, numbers=spec.numbers)
            logits, labels = network(one, Embedded())[0], torch.from_numpy(example.labels)
            clicked, unclicked = (
                functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")
                for label in (1.0, 0.0)
            )
            late = labels == LATE_CLICK
            losses.append(torch.where(late, clicked - unclicked, torch.where(labels == 1, clicked, unclicked)).sum())
        optimizer.zero_grad()
        (torch.stack(losses).sum() / max(total, WHOLE_BATCH)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        network.observe(collate(batch, length=spec.length, numbers=spec.numbers), Embedded())
    dense = learner.base("a").tensors
    for name, tensor in network.state_dict().items():
        np.testing.assert_allclose(dense[name], tensor.numpy(), atol=5e-5)


@pytest.mark.long
def test_clicks_that_come_after_their_items_were_learned_as_unclicked_are_predicted_as_often_as_they_come() -> None:
    learner, rng = Learner(small("counts")), np.random.default_rng(0)
    predicted = []
    for _ in range(300):
        [example] = examples(1, seed=int(rng.integers(1 << 30)))
        shown = dataclasses.replace(
            example, items=rng.choice(example.items, 10), categories=np.zeros(10, np.uint32), numbers=None
        )
        predicted += learner.learn([with_labels(shown, np.zeros(10))])
        clicked = dataclasses.replace(shown, items=shown.items[:1], categories=shown.categories[:1])
        learner.learn([with_labels(clicked, np.full(1, LATE_CLICK))])
    lately = np.concatenate(predicted)[-2000:]
    assert 0.07 < lately.mean() < 0.13, "one in ten was clicked"


def test_late_clicks_alone_are_clicks_and_move_nothing_that_predicts() -> None:
    learner = Learner(small("counts"), seed=4)
    batch = [with_labels(each, np.full(len(each.items), LATE_CLICK)) for each in examples(8, seed=1)]
    before = learner.predict(batch)
    learner.learn(batch)
    assert learner.steps == 1
    assert_same(learner.predict(batch), before)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_learner_goes_on_bit_for_bit(kind: str) -> None:
    stream = batches(24, seed=5)
    whole = Learner(small(kind), seed=7)
    first = Learner(small(kind), seed=7)
    for learner in (whole, first):
        learner.begin_epoch(3)
        for number, batch in enumerate(stream[:12]):
            learner.learn(batch)
            if number % 5 == 4:
                learner.delta("a")
    second = Learner(small(kind), seed=7)
    second.load_state(first.state())
    assert (second.version, second.steps, second.changed) == (whole.version, whole.steps, True)
    for batch in stream[12:]:
        assert_same(second.learn(batch), whole.learn(batch))
    assert second.rows == whole.rows
    left, right = second.delta("a"), whole.delta("a")
    assert left.at == right.at
    assert contents(left) == contents(right)
    assert contents(second.base("a")) == contents(whole.base("a"))


def test_a_state_is_a_copy_that_further_learning_leaves_alone() -> None:
    learner = Learner(small("din"))
    learner.learn(examples(8, seed=6))
    state = learner.state()
    copies = {name: array.copy() for name, array in state.items()}
    learner.learn(examples(8, seed=7))
    assert all(np.array_equal(state[name], copy) for name, copy in copies.items())


@pytest.mark.long
def test_the_state_of_another_model_or_half_a_state_is_refused() -> None:
    state = Learner(small("din")).state()
    for other in (Learner(small("sam")), Learner(small("din"), seed=1)):
        with pytest.raises(CheckpointError, match="model"):
            other.load_state(state)
    for name in state:
        if not name.startswith("adam/"):
            with pytest.raises(CheckpointError):
                Learner(small("din")).load_state({key: value for key, value in state.items() if key != name})


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(kind: str, bad: float) -> None:
    learner = Learner(small(kind))
    for batch in batches(3, seed=8):
        learner.learn(batch)
    learner.delta("a")
    before = learner.state()
    poisoned = examples(8, seed=9, catalogue=400)
    poisoned[3] = dataclasses.replace(poisoned[3], labels=np.full(len(poisoned[3].items), bad, np.float32))
    predicted = np.concatenate(learner.learn(poisoned))
    assert np.isfinite(predicted).all()
    assert (learner.skipped, learner.steps, learner.changed) == (1, 3, False)
    after = learner.state()
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name]) for name in before if name != "counters")
    learner.learn(examples(8, seed=10))
    assert (learner.skipped, learner.steps) == (1, 4)


def test_a_table_that_is_smaller_than_a_step_learns_as_many_keys_as_it_has_rows_and_counts_the_others() -> None:
    learner = Learner(small("din"), OptimSpec(max_rows=7))
    for batch in batches(4, seed=11):
        learner.learn(batch)
    assert learner.rows["item"] == 7
    assert learner.key_counts["item"]["dropped"] > 0


def test_a_delta_holds_the_rows_of_its_batches_and_nothing_else() -> None:
    learner = Learner(small("din"))
    learner.begin_epoch(1)
    for batch in batches(3, seed=12):
        learner.learn(batch)
    learner.delta("a")
    batch = examples(2, seed=13)
    learner.learn(batch)
    update = learner.delta("arm")
    keys = {key for example in batch for key in (*example.items, *example.sequence["item"][-10:])}
    assert set(update.tensors["item/keys"].tolist()) == {int(key) for key in keys}
    assert (update.arm, update.kind, update.at) == ("arm", "delta", (1, 2))
    assert not learner.changed
    assert len(learner.delta("a").tensors["item/keys"]) == 0


def test_a_base_is_everything_under_the_version_of_the_last_delta() -> None:
    learner = Learner(small("din"))
    learner.begin_epoch(2)
    assert learner.base("a").at == Version(2, 0)
    learner.learn(examples(8, seed=14))
    learner.delta("a")
    learner.learn(examples(8, seed=15))
    base = learner.base("a")
    assert (base.kind, base.at) == ("base", (2, 1))
    assert len(base.tensors["item/keys"]) == learner.rows["item"]
    assert learner.changed
    assert len(learner.delta("a").tensors["item/keys"]) > 0


def test_epochs_only_rise() -> None:
    learner = Learner(small("counts"))
    learner.begin_epoch(5)
    learner.delta("a")
    for epoch in (5, 4):
        with pytest.raises(ValueError, match="epoch"):
            learner.begin_epoch(epoch)
    learner.begin_epoch(6)
    assert learner.version == (6, 0)


def test_an_empty_batch_and_examples_without_candidates_take_no_step() -> None:
    learner = Learner(small("din"))
    nobody = Example(examples(1, seed=16)[0].sequence, 0, *(np.zeros(0, kind) for kind in ("u8", "u4", "f4")))
    assert learner.learn([]) == []
    assert learner.predict([]) == []
    assert [len(each) for each in learner.learn([nobody])] == [0]
    assert (learner.steps, learner.skipped) == (0, 0)


def test_examples_without_labels_are_an_error_that_says_so() -> None:
    batch = [dataclasses.replace(example, labels=None) for example in examples(2, seed=17)]
    with pytest.raises(ValueError, match="labels"):
        Learner(small("din")).learn(batch)
