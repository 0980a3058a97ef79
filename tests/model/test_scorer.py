"""The scorer: equal to the learner it follows, and never half way between two states."""

import dataclasses
import math
import queue
import threading
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import UpdateRefused
from model.example import Example
from model.learner import Learner
from model.scorer import Prepared, Scorer
from model.serialization.update import Update, decode, encode
from model.spec import OptimSpec
from tests.model.learning import KINDS, batches, examples, learner_and_scorer, small

PROBE = examples(12, seed=99, catalogue=60)


def assert_follows(scorer: Scorer, learner: Learner) -> None:
    got, expected = scorer.score(PROBE), learner.predict(PROBE)
    assert all(np.array_equal(left, right) for left, right in zip(got, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_base_and_deltas_through_bytes_score_like_the_learner(kind: str) -> None:
    learner, scorer = Learner(small(kind), seed=3), Scorer(small(kind), seed=3)
    learner.begin_epoch(1)
    scorer.apply(decode(encode(learner.base("a"))))
    assert_follows(scorer, learner)
    for batch in batches(3, seed=1):
        learner.learn(batch)
    learner.begin_epoch(2)
    scorer.apply(decode(encode(learner.base("a"))))
    assert_follows(scorer, learner)
    for number, batch in enumerate(batches(6, seed=2)):
        learner.learn(batch)
        scorer.apply(decode(encode(learner.delta("a"))))
        assert scorer.version == (2, number + 1)
        assert_follows(scorer, learner)


def test_learning_predictions_are_what_the_scorer_would_have_served() -> None:
    learner, scorer = Learner(small("sam")), Scorer(small("sam"))
    learner.begin_epoch(1)
    scorer.apply(learner.base("a"))
    for batch in batches(4, seed=3):
        served = scorer.score([dataclasses.replace(example, labels=None) for example in batch])
        learned = learner.learn(batch)
        np.testing.assert_allclose(np.concatenate(served), np.concatenate(learned), atol=1e-6)
        scorer.apply(learner.delta("a"))


def test_candidates_and_examples_do_not_influence_one_another() -> None:
    learner, scorer = Learner(small("sam")), Scorer(small("sam"))
    for batch in batches(5, seed=4):
        learner.learn(batch)
    learner.begin_epoch(1)
    scorer.apply(learner.base("a"))
    together = scorer.score(PROBE)
    for example, probabilities in zip(PROBE, together, strict=True):
        assert probabilities.dtype == np.float32
        assert probabilities.shape == (len(example.items),)
        for at in range(len(example.items)):
            one = slice(at, at + 1)
            assert example.numbers is not None
            alone = dataclasses.replace(
                example,
                items=example.items[one],
                categories=example.categories[one],
                labels=None,
                numbers=example.numbers[one],
            )
            np.testing.assert_allclose(scorer.score([alone])[0], probabilities[at : at + 1], atol=1e-5)


def test_a_late_base_and_missed_deltas_lead_to_the_same_parameters() -> None:
    learner, early, late = Learner(small("din")), Scorer(small("din")), Scorer(small("din"))
    learner.begin_epoch(1)
    early.apply(learner.base("a"))
    for batch in batches(4, seed=5):
        learner.learn(batch)
        early.apply(learner.delta("a"))
    learner.learn(examples(8, seed=6))
    late.apply(learner.base("a"))
    assert late.version == early.version
    learner.learn(examples(8, seed=7))
    delta = learner.delta("a")
    for scorer in (early, late):
        scorer.apply(delta)
        assert_follows(scorer, learner)


def test_nothing_to_score_is_no_error() -> None:
    scorer = Scorer(small("sam"))
    assert scorer.score([]) == []
    empty = Example(PROBE[0].sequence, 0, np.zeros(0, np.uint64), np.zeros(0, np.uint32))
    assert [len(each) for each in scorer.score([empty, PROBE[0]])] == [0, len(PROBE[0].items)]


def refusal(scorer: Scorer, update: Update) -> str | None:
    """Apply; on refusal, check that nothing changed and return the reason."""
    before, version = scorer.score(PROBE), scorer.version
    try:
        scorer.apply(update)
    except UpdateRefused as refused:
        assert scorer.version == version
        after = scorer.score(PROBE)
        assert all(np.array_equal(left, right) for left, right in zip(before, after, strict=True))
        return refused.reason
    return None


@pytest.mark.long
@given(
    st.sampled_from(["base", "delta"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)
@settings(max_examples=60)
def test_the_order_rule(
    kind: Literal["base", "delta"], epoch: int, version: int, at_epoch: int, at_version: int
) -> None:
    learner = Learner(small("counts"))
    scorer = Scorer(small("counts"))
    if (at_epoch, at_version) > (0, 0):
        scorer.apply(dataclasses.replace(learner.base("a"), epoch=at_epoch, version=at_version))
    update = dataclasses.replace(learner.base("a"), kind=kind, epoch=epoch, version=version)
    if (epoch, version) <= (at_epoch, at_version):
        expected: str | None = "stale"
    elif kind == "base" or (epoch, version) == (at_epoch, at_version + 1):
        expected = None
    else:
        expected = "gap"
    assert refusal(scorer, update) == expected


def test_a_delta_of_the_epoch_before_is_stale_and_of_the_next_a_gap() -> None:
    learner, scorer = learner_and_scorer()
    learner.learn(examples(8, seed=9))
    late = learner.delta("a")
    learner.begin_epoch(2)
    base, next_delta = learner.base("a"), learner.delta("a")
    assert refusal(scorer, next_delta) == "gap"
    assert refusal(scorer, base) is None
    assert refusal(scorer, late) == "stale"
    assert refusal(scorer, next_delta) is None


@pytest.mark.parametrize("kind", ["delta", "base"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_tensor_that_is_not_finite_is_served(kind: str, bad: float) -> None:
    learner, scorer = learner_and_scorer()
    learner.learn(examples(8, seed=10))
    good = learner.delta("a") if kind == "delta" else dataclasses.replace(learner.base("a"), version=2)
    for name, tensor in good.tensors.items():
        if tensor.dtype == np.float32:
            poisoned = tensor.copy()
            poisoned.reshape(-1)[-1] = bad
            assert refusal(scorer, with_tensor(good, name, poisoned)) == "non-finite"
    assert refusal(scorer, good) is None


def with_tensor(update: Update, name: str, tensor: npt.NDArray[Any]) -> Update:
    return dataclasses.replace(update, tensors={**update.tensors, name: tensor})


@pytest.mark.long
def test_no_tensor_of_another_shape_or_type_is_served() -> None:
    learner, scorer = learner_and_scorer()
    learner.learn(examples(8, seed=11))
    good = learner.delta("a")
    for name, tensor in good.tensors.items():
        without = {key: value for key, value in good.tensors.items() if key != name}
        assert refusal(scorer, dataclasses.replace(good, tensors=without)) == "shape"
        for other in (
            tensor[..., None],
            np.concatenate([tensor.ravel(), tensor.ravel()]),
            tensor.astype("f8"),
        ):
            assert refusal(scorer, with_tensor(good, name, other)) == "shape"
    assert refusal(scorer, with_tensor(good, "extra", np.zeros(1, np.float32))) == "shape"
    keys = good.tensors["item/keys"]
    for wrong in (np.append(keys[1:], np.uint64(0)), np.append(keys[1:], keys[1])):
        assert refusal(scorer, with_tensor(good, "item/keys", wrong)) == "shape"
    assert refusal(scorer, good) is None


def test_an_update_of_another_model_or_another_seed_is_refused() -> None:
    _, scorer = learner_and_scorer()
    for other in (Learner(small("sam")), Learner(small("din"), seed=1)):
        other.begin_epoch(9)
        assert refusal(scorer, other.base("a")) == "fingerprint"


def test_updates_may_be_prepared_ahead_of_their_turn() -> None:
    learner, scorer = learner_and_scorer()
    learner.begin_epoch(2)
    prepared = [scorer.prepare(learner.base("a"))]
    for batch in batches(3, seed=12):
        learner.learn(batch)
        prepared.append(scorer.prepare(learner.delta("a")))
    with pytest.raises(UpdateRefused, match="gap"):
        scorer.commit(prepared[2])
    for each in prepared:
        scorer.commit(each)
    assert_follows(scorer, learner)


def forgetful_learner_and_scorer() -> tuple[Learner, Scorer]:
    """Return a learner whose rows go after two seconds, and the scorer that has followed it."""
    learner, scorer = Learner(small("din"), OptimSpec(expire_after_s=2.0)), Scorer(small("din"))
    learner.begin_epoch(1)
    learner.learn(at(0, examples(8, seed=8)))
    scorer.apply(learner.base("a"))
    return learner, scorer


def at(second: int, batch: list[Example]) -> list[Example]:
    return [dataclasses.replace(example, ts=10**9 + 1000 * second) for example in batch]


def test_updates_prepared_ahead_may_take_rows_away_and_bring_them_back() -> None:
    learner, scorer = forgetful_learner_and_scorer()
    few = dataclasses.replace(examples(1, seed=3)[0], sequence=PROBE[0].sequence[:0])
    updates = []
    for second, batch in ((3, [few]), (4, examples(8, seed=8)), (7, [few]), (8, examples(8, seed=9))):
        learner.learn(at(second, batch))
        updates.append(learner.delta("a"))
    assert [len(update.tensors.get("item/gone", ())) > 0 for update in updates] == [True, False, True, False]
    for each in [scorer.prepare(update) for update in updates]:
        scorer.commit(each)
    assert_follows(scorer, learner)
    assert scorer.rows == learner.rows


@pytest.mark.long
def test_a_score_beside_updates_that_are_prepared_is_that_of_one_version() -> None:
    learner, scorer = forgetful_learner_and_scorer()
    updates, expected = [], {}
    follower = Scorer(small("din"))
    for second in range(40):
        learner.learn(at(3 * second, examples(8, seed=second, catalogue=4000)))
        if second in (0, 20):
            learner.begin_epoch(2 + second)
        updates.append(learner.delta("a") if second % 20 else learner.base("a"))
        follower.apply(updates[-1])
        expected[follower.version] = [each.tobytes() for each in follower.score(PROBE)]
    assert all("item/gone" in update.tensors for update in updates[1:3])
    ready: queue.Queue[Prepared] = queue.Queue(4)

    def prepare() -> None:
        for update in updates:
            ready.put(scorer.prepare(update))

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    for update in updates:
        prepared = ready.get(timeout=60)
        scorer.commit(prepared)
        assert scorer.version == update.at
        for _ in range(3):
            assert [each.tobytes() for each in scorer.score(PROBE)] == expected[update.at]
    thread.join()
    assert scorer.rows == learner.rows


def test_tombstones_that_are_no_keys_or_have_a_row_as_well_are_refused() -> None:
    learner, scorer = forgetful_learner_and_scorer()
    learner.learn(at(3, examples(1, seed=3)))
    good, base = learner.delta("a"), learner.base("a")
    gone = good.tensors["item/gone"]
    for wrong in (
        gone.astype("i8"),
        gone[:, None],
        np.append(gone, gone[0]),
        np.append(gone, np.uint64(0)),
        np.append(gone, good.tensors["item/keys"][0]),
    ):
        assert refusal(scorer, with_tensor(good, "item/gone", wrong)) == "shape"
    assert refusal(scorer, with_tensor(base, "item/gone", gone)) == "shape", "a base has all rows that there are"
    assert refusal(scorer, with_tensor(good, "other/gone", gone)) == "shape"
    assert refusal(scorer, with_tensor(good, "item/gone", np.append(gone, np.uint64(2**60)))) is None
    assert_follows(scorer, learner)


def test_two_deltas_prepared_together_may_bring_the_same_new_keys() -> None:
    learner, scorer = learner_and_scorer()
    lesson = examples(8, seed=77, catalogue=5000)
    learner.learn(lesson)
    first = learner.delta("a")
    learner.learn(lesson)
    second = learner.delta("a")
    assert len(np.setdiff1d(second.tensors["item/keys"], learner_and_scorer()[0].base("a").tensors["item/keys"])) > 0
    for each in [scorer.prepare(first), scorer.prepare(second)]:
        scorer.commit(each)
    assert_follows(scorer, learner)


def test_rows_that_were_found_before_a_base_are_found_again_in_its_tables() -> None:
    _, scorer = learner_and_scorer()
    learner = Learner(small("din"))
    learner.learn(examples(8, seed=55))
    learner.begin_epoch(2)
    base = scorer.prepare(learner.base("a"))
    learner.learn(examples(8, seed=56))
    delta = scorer.prepare(learner.delta("a"))
    for each in (base, delta):
        scorer.commit(each)
    assert_follows(scorer, learner)
