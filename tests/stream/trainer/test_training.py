"""What the trainer does with samples: repeats, damage, prediction before learning, whose samples, and going on."""

from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from model.errors import CheckpointError
from model.learner import Learner
from model.metrics import log_loss
from model.serialization import checkpoint
from model.serialization.checkpoint import ArmState, Checkpoint
from model.spec import count_numbers
from model.statistics.item_statistics import pack_numbers
from state.behavior import behaviors
from stream.settings import ArmSettings, Settings, convert
from stream.trainer.predictions import PREDICTION, read_predictions
from stream.trainer.training import Training
from tests.stream.trainer.support import ARMS, SEQUENCE, labels, poisoned, sample, settings, training, training_examples


def same(one: Learner, other: Learner) -> bool:
    states = one.state(), other.state()
    return states[0].keys() == states[1].keys() and all(
        np.array_equal(states[0][name], states[1][name]) for name in states[0]
    )


# --- taking samples --------------------------------------------------------------------------------------------------


def test_a_sample_becomes_a_training_example() -> None:
    example = training().take(sample("r", 2**64 - 1, 5), SEQUENCE)
    assert example is not None
    assert (example.arm, example.user, example.clicked_at) == ("own", "u", 77)
    assert example.features.ts == 10**9
    assert example.features.sequence is SEQUENCE
    assert example.features.items.tolist() == [2**64 - 1, 5]
    assert example.features.categories.tolist() == [0, 1]
    assert example.features.labels is not None
    assert example.features.labels.tolist() == [0.0, 1.0]
    assert example.features.labels.dtype == np.float32


def test_a_sample_of_a_user_without_a_history_is_taken_and_learned() -> None:
    taught = training()
    example = taught.take(sample(), behaviors([]))
    assert example is not None
    assert len(example.features.sequence) == 0
    taught.learn([example])
    assert taught.arms["own"].learner.steps == 1


def test_a_sample_brings_the_numbers_that_were_served_of_the_items_that_are_new() -> None:
    taught = training([{"name": "own", "preset": "counts-10", "model": {"statistics": [60.0]}}])
    width = count_numbers([60.0])
    numbers = np.arange(3 * width, dtype=np.float32).reshape(3, width)
    first = taught.take(sample("r", 1, numbers=pack_numbers(numbers[:1])), SEQUENCE)
    rest = taught.take(sample("r", 1, 2, 3, numbers=pack_numbers(numbers)), SEQUENCE)
    assert first is not None
    assert rest is not None
    assert first.features.numbers is not None
    assert rest.features.numbers is not None
    np.testing.assert_array_equal(first.features.numbers, numbers[:1])
    np.testing.assert_array_equal(rest.features.numbers, numbers[1:])
    assert "samples_without_statistics" not in taught.counts


@pytest.mark.parametrize("packed", [b"", b"\0\0", b"\0" * 2 * 3 * count_numbers([1.0, 2.0])])
def test_a_sample_without_numbers_or_with_those_of_other_half_lives_is_learned_as_if_nothing_stood_out(
    packed: bytes,
) -> None:
    taught = training([{"name": "own", "preset": "counts-10", "model": {"statistics": [60.0]}}])
    example = taught.take(sample("r", 1, 2, 3, numbers=packed), SEQUENCE)
    assert example is not None
    assert example.features.numbers is None
    taught.learn([example])
    assert dict(taught.counts) == {"samples": 3, "samples_without_statistics": 3}
    assert taught.arms["own"].learner.steps == 1


def test_a_repeated_sample_is_recognised_and_counted() -> None:
    taught = training()
    assert taught.take(sample("r"), SEQUENCE) is not None
    assert taught.take(sample("r"), SEQUENCE) is None
    assert taught.take(sample("other"), SEQUENCE) is not None
    assert dict(taught.counts) == {"samples": 6, "repeated": 1}


def test_of_a_sample_that_repeats_in_part_the_new_items_are_left() -> None:
    taught = training()
    taught.take(sample("r", 1, 2), SEQUENCE)
    example = taught.take(sample("r", 2, 3, 1, 4), SEQUENCE)
    assert example is not None
    assert example.features.labels is not None
    assert example.features.items.tolist() == [3, 4]
    assert example.features.categories.tolist() == [1, 3]
    assert example.features.labels.tolist() == [0.0, 1.0]
    assert taught.counts["samples"] == 4


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"items": np.array([1, 2], "<u8").tobytes()}, "2 items, 3 categories, 3 labels"),
        ({"categories": b""}, "3 items, 0 categories, 3 labels"),
        ({"labels": b"\x00\x01"}, "3 items, 3 categories, 2 labels"),
        ({"labels": b"\x00\x01\x02"}, "labels of 0 or 1"),
        ({"items": b"x" * 23}, "multiple of element size"),
        ({"categories": b"x" * 11}, "multiple of element size"),
    ],
)
def test_a_damaged_sample_is_refused_and_leaves_no_trace(damage: dict[str, bytes], words: str) -> None:
    taught = training()
    with pytest.raises(ValueError, match=words):
        taught.take(sample("r", 1, 2, 3, **damage), SEQUENCE)
    assert not taught.counts
    example = taught.take(sample("r", 1, 2, 3), SEQUENCE)
    assert example is not None
    assert len(example.features.items) == 3


def test_a_sample_whose_sequence_cannot_be_had_is_counted_and_learned_when_it_comes_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taught = training()
    assert taught.take(sample("r", 1), SEQUENCE) is not None
    for _ in range(2):
        assert taught.take(sample("r", 1, 2, 3), None) is None
    assert taught.take(sample("r", 1), None) is None
    assert taught.counts == {"samples": 1, "samples_without_sequence": 4, "repeated": 1}
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"sequence_missing seen={len(SEQUENCE)} read_to=40"), line
    example = taught.take(sample("r", 1, 2, 3), SEQUENCE)
    assert example is not None
    assert example.features.items.tolist() == [2, 3]


def test_only_the_newest_ids_are_remembered() -> None:
    taught = training(dedup_window=6)
    assert taught.take(sample("first"), SEQUENCE) is not None
    for number in range(20):
        taught.take(sample(f"r{number}"), SEQUENCE)
    assert taught.take(sample("r19"), SEQUENCE) is None
    assert taught.take(sample("first"), SEQUENCE) is not None


# --- learning --------------------------------------------------------------------------------------------------------


def test_every_sample_is_predicted_before_it_is_learned(tmp_path: Path) -> None:
    taught = training(ARMS[:1])
    trainer = taught.arms["own"]
    trainer.open_log(tmp_path)
    alone = Learner(trainer.arm.spec(), trainer.arm.optim, seed=0)
    first, second = training_examples("own", seed=1), training_examples("own", seed=1)
    expected: list[np.float32] = []
    for batch in (first, second):
        predicted = alone.predict([example.features for example in batch])
        expected += np.concatenate(predicted).tolist()
        alone.learn([example.features for example in batch])
        taught.learn(batch)
    trainer.flush_log()
    rows = read_predictions(tmp_path / "own.predictions")
    np.testing.assert_allclose(rows["probability"], expected, atol=1e-5)
    half = len(rows) // 2
    assert not np.allclose(rows["probability"][:half], rows["probability"][half:], atol=1e-3), "it learned between"
    assert rows["label"].tolist() == [label for example in first + second for label in labels(example.features)]
    assert rows["ts"].tolist() == [10**9] * len(rows)
    users = [xxh3_64_intdigest(example.user.encode()) for example in first + second for _ in example.features.items]
    assert rows["user"].tolist() == users
    total = trainer.metrics.total()
    assert (total.samples, total.positives) == (len(rows), rows["label"].sum())
    assert total.log_loss == pytest.approx(log_loss(rows["label"].astype(np.float64), rows["probability"]), rel=1e-5)


def test_records_of_one_request_are_answered_and_learned_as_they_would_be_apart(tmp_path: Path) -> None:
    taught = training(ARMS[:1])
    trainer = taught.arms["own"]
    trainer.open_log(tmp_path)
    alone = Learner(trainer.arm.spec(), trainer.arm.optim, seed=0)
    expected: list[np.float32] = []
    for day in range(6):
        named: list[tuple[str, list[int]]] = [("r", [1]), ("s", [5, 6]), ("r", [2, 3]), ("t", [1]), ("r", [4])]
        read = [taught.take(sample(f"{name}{day}", *items), SEQUENCE) for name, items in named]
        batch = [example for example in read if example is not None]
        assert len(batch) == len(named)
        expected += np.concatenate(alone.learn([example.features for example in batch])).tolist()
        taught.learn(batch)
    trainer.flush_log()
    rows = read_predictions(tmp_path / "own.predictions")
    np.testing.assert_allclose(rows["probability"], expected, rtol=1e-3)
    assert rows["label"].tolist() == [1, 0, 1, 0, 1, 1, 1] * 6
    assert len(set(np.round(expected, 4))) > 6, "it learned"


def test_an_arm_learns_from_its_own_users_or_from_all() -> None:
    taught = training()
    own, others = training_examples("own", seed=1), training_examples("frozen", seed=2)
    taught.learn(own + others)
    alone = {arm.name: Learner(arm.spec(), arm.optim, seed=0) for arm in settings().arms}
    alone["own"].learn([example.features for example in own])
    alone["all"].learn([example.features for example in own + others])
    for name in ("own", "all"):
        assert same(taught.arms[name].learner, alone[name])
    counts = [sum(len(example.features.items) for example in group) for group in (own, others)]
    judged = {name: trainer.metrics.total().samples for name, trainer in taught.arms.items()}
    assert judged == {"own": counts[0], "all": sum(counts), "frozen": counts[1]}


def test_an_arm_whose_users_have_no_sample_does_nothing() -> None:
    taught = training()
    taught.learn(training_examples("frozen"))
    taught.learn([])
    assert taught.arms["own"].learner.steps == 0
    assert not taught.arms["own"].learner.changed
    assert taught.arms["all"].learner.steps == 1


@pytest.mark.long
def test_an_arm_that_does_not_learn_is_judged_and_does_not_change() -> None:
    taught = training()
    frozen = taught.arms["frozen"]
    before = frozen.learner.base("frozen").tensors
    taught.learn(training_examples("frozen", seed=1))
    assert same(frozen.learner, Learner(frozen.arm.spec(), frozen.arm.optim, seed=0))
    after = frozen.learner.base("frozen").tensors
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not frozen.learner.changed
    assert frozen.metrics.total().samples > 0
    assert frozen.take_clicks() == (), "it has learned no click"


def test_clicks_are_told_once_and_those_of_negatives_never() -> None:
    taught = training(ARMS[:1])
    taught.learn(training_examples("own", 6))
    trainer = taught.arms["own"]
    assert trainer.take_clicks() == (1001, 1003, 1005)
    assert trainer.take_clicks() == ()


def test_of_a_step_that_is_not_finite_only_the_culprit_is_lost_and_it_may_come_again() -> None:
    taught, without = training(ARMS[:1]), training(ARMS[:1])
    trainer = taught.arms["own"]
    for each in (taught, without):
        poisoned(each.arms["own"], 999)
    samples = [sample("good"), sample("bad", 999), sample("fine")]
    taken = [example for each in samples if (example := taught.take(each, SEQUENCE)) is not None]
    assert taught.learn(taken) == {1: ["own"]}
    assert taught.counts == {"samples": 7, "skipped": 1}
    for name in ("good", "fine"):
        example = without.take(sample(name), SEQUENCE)
        assert example is not None
        assert without.learn([example]) == {}
    assert (trainer.learner.steps, trainer.learner.skipped) == (2, 2)
    dense = [each.arms["own"].learner.base("own").tensors for each in (taught, without)]
    assert all(np.array_equal(dense[0][name], dense[1][name]) for name in dense[0])
    assert trainer.take_clicks() == (77, 77), "the culprit's click was not learned"
    assert taught.take(sample("good"), SEQUENCE) is None
    again = taught.take(sample("bad", 999), SEQUENCE)
    assert again is not None
    assert taught.learn([again]) == {0: ["own"]}


def test_what_one_arm_could_not_learn_and_another_did_is_a_repeat_when_it_comes_again() -> None:
    taught = training(ARMS[:2])
    poisoned(taught.arms["own"], 999)
    example = taught.take(sample("bad", 999), SEQUENCE)
    assert example is not None
    assert taught.learn([example]) == {0: ["own"]}
    assert taught.arms["all"].learner.steps == 1
    assert taught.take(sample("bad", 999), SEQUENCE) is None


def test_a_trainer_teaches_the_arms_it_is_told_to() -> None:
    assert list(training().arms) == ["own", "all", "frozen"]
    chosen = Training(convert({"arms": ARMS, "trainer": {"arms": ["all"]}}), device="cpu")
    assert list(chosen.arms) == ["all"]
    chosen.learn(training_examples("own"))
    assert chosen.arms["all"].learner.steps == 1


# --- going on --------------------------------------------------------------------------------------------------------


def saved(taught: Training, directory: Path) -> Checkpoint:
    """What a checkpoint on disk gives back."""
    made = Checkpoint(
        epoch=1,
        offsets={},
        arms={name: trainer.save() for name, trainer in taught.arms.items()},
        seen=taught.seen.to_array(),
        counts=taught.counts,
    )
    checkpoint.save(directory, made, keep=1)
    found = checkpoint.load_newest(directory).checkpoint
    assert found is not None
    return found


def resumed(found: Checkpoint) -> Training:
    taught = training()
    for name, trainer in taught.arms.items():
        trainer.resume(found.arms[name])
    taught.seen.restore(found.seen)
    return taught


def test_what_goes_on_from_a_checkpoint_goes_on_exactly(tmp_path: Path) -> None:
    lived = training()
    lived.learn(training_examples("own", seed=1) + training_examples("frozen", seed=2))
    lived.take(sample("r"), SEQUENCE)
    died = resumed(saved(lived, tmp_path / "checkpoints"))
    assert died.take(sample("r"), SEQUENCE) is None
    for taught, log in ((lived, tmp_path / "lived"), (died, tmp_path / "died")):
        for trainer in taught.arms.values():
            trainer.open_log(log)
        taught.learn(training_examples("own", seed=3) + training_examples("frozen", seed=4))
        taught.learn(training_examples("own", seed=5))
    for name, trainer in lived.arms.items():
        other = died.arms[name]
        assert same(trainer.learner, other.learner)
        assert trainer.metrics.to_dict() == other.metrics.to_dict()
        for each in (trainer, other):
            each.flush_log()
        rows = [(tmp_path / life / f"{name}.predictions").read_bytes() for life in ("lived", "died")]
        assert rows[0] == rows[1]
        assert rows[0]


def test_what_a_lost_life_logged_is_cut_off(tmp_path: Path) -> None:
    lost = training()
    for trainer in lost.arms.values():
        trainer.open_log(tmp_path / "log")
    lost.learn(training_examples("own", seed=1))
    for trainer in lost.arms.values():
        trainer.flush_log()
    found = saved(lost, tmp_path / "checkpoints")
    kept = read_predictions(tmp_path / "log" / "own.predictions")
    lost.learn(training_examples("own", seed=2))
    for trainer in lost.arms.values():
        trainer.flush_log()
    assert len(read_predictions(tmp_path / "log" / "own.predictions")) > len(kept)

    taught = resumed(found)
    trainer = taught.arms["own"]
    trainer.open_log(tmp_path / "log")
    assert read_predictions(tmp_path / "log" / "own.predictions").tobytes() == kept.tobytes()
    again = training_examples("own", seed=3)
    taught.learn(again)
    trainer.flush_log()
    rows = read_predictions(tmp_path / "log" / "own.predictions")
    assert rows[: len(kept)].tobytes() == kept.tobytes()
    assert rows["label"][len(kept) :].tolist() == [label for example in again for label in labels(example.features)]
    assert trainer.predictions == len(rows)


def test_a_log_that_begins_later_than_the_lineage_invents_nothing(tmp_path: Path) -> None:
    before = training()
    before.learn(training_examples("own", seed=1))
    after = resumed(saved(before, tmp_path / "checkpoints"))
    trainer = after.arms["own"]
    trainer.open_log(tmp_path / "log")
    taught = training_examples("own", seed=2)
    after.learn(taught)
    trainer.flush_log()
    rows = read_predictions(tmp_path / "log" / "own.predictions")
    assert len(rows) == sum(len(example.features.items) for example in taught)
    assert (rows["ts"] == 10**9).all()


def test_a_row_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "own.predictions"
    rows = np.array([(1, 2**64 - 1, 1, 0.5), (3, 4, 0, 0.25)], PREDICTION)
    path.write_bytes(rows.tobytes() + b"\x00" * (PREDICTION.itemsize - 1))
    assert read_predictions(path).tolist() == rows.tolist()
    path.write_bytes(b"")
    assert len(read_predictions(path)) == 0


def test_a_checkpoint_that_is_damaged_twice_under_one_number_stops_no_start(tmp_path: Path) -> None:
    taught = training()
    saved(taught, tmp_path)
    for _ in range(2):
        made = Checkpoint(1, {}, {name: trainer.save() for name, trainer in taught.arms.items()}, np.empty(0, "u8"))
        (checkpoint.save(tmp_path, made) / "manifest.json").write_bytes(b"damaged")
        found = checkpoint.load_newest(tmp_path)
        assert len(found.refused) == 1
        checkpoint.set_aside(found.refused)
    assert not checkpoint.load_newest(tmp_path).refused


def test_a_state_of_another_model_is_refused() -> None:
    taught = training()
    states: dict[str, ArmState] = {name: trainer.save() for name, trainer in taught.arms.items()}
    with pytest.raises(CheckpointError, match="of model"):
        taught.arms["own"].resume(states["frozen"])


def test_arms_start_from_the_seed() -> None:
    arm = ArmSettings(name="own", preset="mean-10", model={"item_dim": 4, "category_dim": 4})
    learners = [Training(Settings(arms=(arm,), seed=seed), device="cpu").arms["own"].learner for seed in (1, 1, 2)]
    assert same(learners[0], learners[1])
    assert not same(learners[0], learners[2])
