"""Ranks in step: what they agree on, what they refuse, and that a trainer of two is the one of one."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from model.distributed.group import rank_of_environment
from model.distributed.ranks import Ranks
from model.embedding.shards import Rank, merged_states
from model.errors import PeerError
from model.peers import WholeStep
from stream.bench.harness.rank_pool import RankPool
from stream.errors import KafkaClientError, SettingsError, TrainerError
from stream.trainer.arm_trainer import ArmStep, merged_progress
from stream.trainer.examples import TrainingExample
from stream.trainer.team import SOLO, Agreed, RankTeam, Solo, Turn, check_settings
from stream.trainer.training import Training
from tests.stream.trainer.support import poisoned, settings, training, training_examples

pytestmark = pytest.mark.xdist_group("ranks")  # one pair of ranks for all


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    pool = RankPool(2, wait_s=240.0)
    yield pool
    pool.close()


def agree(
    ranks: Ranks, wanted: Turn, steps: Sequence[ArmStep], samples: int, failure: Exception | None = None
) -> Agreed | str:
    team = RankTeam(ranks.group)
    try:
        return team.agree(wanted, steps, samples, failure)
    except (TrainerError, KafkaClientError) as error:
        return str(error)


def step(examples: int, labels: int, now: int) -> ArmStep:
    return ArmStep((examples,), WholeStep(labels, now))


@pytest.mark.long
def test_what_any_rank_wants_all_do_with_what_all_have(pool: RankPool) -> None:
    first = Turn(publish=True), [step(3, 10, 50), step(0, 0, 0)], 100
    second = Turn(learn=True), [step(1, 2, 70), step(0, 0, 0)], 11
    found = pool.run(agree, [first, second])
    expected = Agreed(
        Turn(learn=True, publish=True),
        [ArmStep((3, 1), WholeStep(12, 70)), ArmStep((0, 0), WholeStep(0, 0))],
        111,
    )
    assert found == [expected, expected]


def test_a_rank_that_fails_says_so_and_ends_all(pool: RankPool) -> None:
    own, other = pool.run(
        agree, [(Turn(), [], 0, KafkaClientError("Kafka refuses this client")), (Turn(stop=True), [], 0)]
    )
    assert own == "Kafka refuses this client"
    assert "rank 0 has failed, and its log says why" in other


def test_one_rank_does_what_it_wants_and_raises_what_went_wrong() -> None:
    assert SOLO.agree(Turn(save=True), [step(1, 2, 3)], 5, None) == Agreed(Turn(save=True), [step(1, 2, 3)], 5)
    with pytest.raises(KafkaClientError, match="away"):
        SOLO.agree(Turn(), [], 0, KafkaClientError("away"))
    assert not Turn()
    assert Turn(restart=True)


class Others(Solo):
    """A team whose other ranks say something else."""

    def __init__(self, change: dict[str, Any]) -> None:
        self._change = change

    def share(self, content: bytes) -> list[bytes]:
        said = msgspec.json.decode(content)
        return [content, content, msgspec.json.encode({**said, **self._change})]


def test_ranks_with_other_settings_are_refused_by_name_and_no_value_is_told() -> None:
    ours = settings()
    check_settings(ours, SOLO)
    with pytest.raises(SettingsError, match=r"rank 2 has other settings than rank 0: arms.own.preset, kafka.ssl.ca"):
        check_settings(ours, Others({"arms.own.preset": "x", "kafka.ssl.ca": "y"}))

    class Recorder(Solo):
        said = b""

        def share(self, content: bytes) -> list[bytes]:
            self.said = content
            return [content]

    recorder = Recorder()
    secret = msgspec.structs.replace(ours, kafka={"bootstrap.servers": "h:1", "sasl.password": "hunter2"})
    check_settings(secret, recorder)
    assert b"kafka.sasl.password" in recorder.said
    assert b"hunter2" not in recorder.said
    assert b"trainer.metrics" not in recorder.said


def test_an_environment_that_is_no_rank_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_of_environment() == Rank(0, 1)
    for number, ranks in (("2", "2"), ("x", "2"), ("-1", "2"), ("0", "0")):
        monkeypatch.setenv("RANK", number)
        monkeypatch.setenv("WORLD_SIZE", ranks)
        with pytest.raises(PeerError, match="is no rank"):
            rank_of_environment()


class _Learned:
    """What a rank's training came to, as it crosses a pipe."""

    def __init__(self, taught: Training, lost: list[dict[int, list[str]]]) -> None:
        self.lost = lost
        self.states = {name: arm.learner.state() for name, arm in taught.arms.items()}
        self.progress = {name: arm.save().progress for name, arm in taught.arms.items()}


def teach(ranks: Ranks, batches: Sequence[Sequence[TrainingExample]], poison: int = 0) -> _Learned:
    team = RankTeam(ranks.group)
    taught = Training(settings(), device="cpu", peers=ranks)
    if poison:
        whole = training()
        poisoned(whole.arms["own"], poison)
        taught.arms["own"].learner.load_state(whole.arms["own"].learner.state())
    lost = []
    for batch in batches:
        agreed = team.agree(Turn(learn=True), taught.weigh(batch), 0, None)
        lost.append(taught.learn(batch, agreed.steps))
    return _Learned(taught, lost)


@pytest.mark.long
def test_a_training_of_two_ranks_is_that_of_one_for_every_arm(pool: RankPool) -> None:
    lives = [
        [training_examples("own", 4, seed=1), [], training_examples("frozen", 3, seed=2)],
        [training_examples("frozen", 2, seed=3), training_examples("own", 1, seed=4), []],
    ]
    found = pool.run(teach, [(batches,) for batches in lives])
    alone = training()
    for first, second in zip(*lives, strict=True):
        alone.learn([*first, *second])
    for name, arm in alone.arms.items():
        merged, expected = merged_states([each.states[name] for each in found]), arm.learner.state()
        for part in ("network", "served"):
            for key in (key for key in expected if key.startswith(part)):
                np.testing.assert_allclose(merged[key], expected[key], atol=1e-5)
        together = merged_progress([each.progress[name] for each in found])
        ours, theirs = together["metrics"]["total"], arm.save().progress["metrics"]["total"]
        assert ours["samples"] == theirs["samples"] > 0
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.long
def test_a_sample_that_no_step_can_learn_is_lost_on_its_rank_alone(pool: RankPool) -> None:
    good, other = training_examples("own", 3, seed=1), training_examples("own", 2, seed=2)
    [bad] = training_examples("own", 1, seed=3)
    bad = replace(bad, features=replace(bad.features, items=np.full_like(bad.features.items, 999)))
    first, second = pool.run(teach, [([good], 999), ([[other[0], bad, other[1]]], 999)])
    assert first.lost == [{}]
    assert second.lost == [{1: ["own"]}]


@pytest.mark.long
def test_a_rank_that_is_not_told_where_the_others_meet_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(PeerError, match="MASTER_PORT not set: start the trainer with --ranks or with torchrun"):
        rank_of_environment()
