"""What a trainer publishes of arms, also of one that has diverged."""

import dataclasses

import msgspec
import numpy as np
import pytest

from model.embedding import shards
from model.peers import Alone
from model.scorer import Scorer
from model.serialization.parts import Assembler, PiecePart
from stream.kafka.producer import ReliableProducer
from stream.settings import convert
from stream.trainer.arm_trainer import diverged
from stream.trainer.publisher import UpdatePublisher
from stream.trainer.training import Training
from tests.stream.trainer.support import training_examples

SETTINGS = convert(
    {
        "arms": [
            {"name": "good", "preset": "sam-10", "learn_from": "all", "model": {"item_dim": 4, "category_dim": 4}},
            {"name": "bad", "preset": "din-10", "learn_from": "all", "model": {"item_dim": 4, "category_dim": 4}},
        ]
    }
)


class Sent:
    """Takes the records that would go to Kafka."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.keys: list[str] = []

    def limit(self, _topic: str) -> int:
        return 1_000_000

    def send(self, _topic: str, value: bytes, *, key: str, **_: object) -> None:
        self.records.append(value)
        self.keys.append(key)


@pytest.fixture
def sent() -> Sent:
    return Sent()


def publisher(sent: Sent, training: Training) -> UpdatePublisher:
    sender: ReliableProducer = sent  # type: ignore[assignment]
    return UpdatePublisher(sender, "model-updates", training)


def ruin(training: Training, value: float, tensor: str = "served/head.0.bias") -> None:
    """Put a number into the arm `bad`, as steps that are too large would."""
    learner = training.arms["bad"].learner
    state = learner.state()
    state[tensor] = np.full_like(state[tensor], value)
    fresh = Training(SETTINGS, device="cpu").arms["bad"].learner
    fresh.load_state(state)
    training.arms["bad"].learner = fresh


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_an_arm_that_has_diverged_publishes_nothing_and_the_others_do(
    sent: Sent, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(SETTINGS, device="cpu")
    for arm in training.arms.values():
        arm.learner.begin_epoch(1)
    out = publisher(sent, training)
    out.publish_bases()
    ruin(training, value)
    for number in range(3):
        training.learn(training_examples("good", seed=number))
        training.arms["bad"].learner.changed = True
        out.publish_deltas()
    out.publish_bases()
    scorers = {arm.name: Scorer(arm.spec(), seed=SETTINGS.seed) for arm in SETTINGS.models}
    assembler = Assembler(scorers)
    updates = [update for record in sent.records if (update := assembler.add(record)) is not None]
    assert [(update.arm, update.kind) for update in updates] == [
        ("good", "base"),
        ("bad", "base"),
        *[("good", "delta")] * 3,
        ("good", "base"),
    ]
    for update in updates[:-1]:
        scorers[update.arm].apply(update)
    assert scorers["good"].version == (1, 3)
    assert scorers["bad"].version == (1, 0)
    assert out.withheld == {"bad": 4}
    said = [record.getMessage() for record in caplog.records if "update_withheld" in record.getMessage()]
    assert len(said) == 1
    assert "arm=bad" in said[0]
    assert "the arm has diverged: head.0.bias holds" in said[0]


def test_a_row_that_is_no_number_is_found_in_what_would_be_saved() -> None:
    training = Training(SETTINGS, device="cpu")
    training.learn(training_examples("good", seed=1))
    assert diverged(training.arms["bad"].save()) == ""
    state = training.arms["bad"].save()
    rows = state.tensors["item/vectors"].copy()
    rows[1, 2] = np.nan
    assert diverged(dataclasses.replace(state, tensors={**state.tensors, "item/vectors": rows})) == (
        "item/vectors holds NaN or infinity"
    )


def test_the_largest_steps_that_the_settings_allow_lead_to_no_number_that_is_none() -> None:
    optim = {"dense_lr": 1.0, "embedding_lr": 1.0, "clip_norm": 1e30}
    settings = convert({"arms": [{"name": kind, "preset": f"{kind}-10", "learn_from": "all", "optim": optim}
                                 for kind in ("sam", "din", "mean", "counts")]})  # fmt: skip
    training = Training(settings, device="cpu")
    for number in range(10):
        training.learn(training_examples("own", seed=number))
    for name, arm in training.arms.items():
        assert diverged(arm.save()) == "", name
        assert all(np.isfinite(each).all() for each in arm.learner.predict([training_examples("own")[0].features]))


class Rank(Alone):
    """One of several ranks, which asks nobody."""

    def __init__(self, number: int, ranks: int) -> None:
        self.rank = shards.Rank(number, ranks)


def test_each_rank_publishes_its_piece_under_keys_of_its_own_and_one_without_rows_none() -> None:
    of_ranks = {number: Sent() for number in (0, 1, 64)}
    for number, sent in of_ranks.items():
        training = Training(SETTINGS, device="cpu", peers=Rank(number, 70))
        publisher(sent, training).publish_bases()
    assert of_ranks[0].keys == ["good/base-start/0", "bad/base-start/0"]
    assert of_ranks[1].keys == ["rank-1/good/base-start/0", "rank-1/bad/base-start/0"]
    assert not of_ranks[64].records
    parts = [msgspec.msgpack.decode(of_ranks[number].records[0], type=PiecePart) for number in (0, 1)]
    assert [(part.piece, part.pieces) for part in parts] == [(0, 64), (1, 64)]
