"""Arms: who is in which, and answers that fit their examples."""

import time

import numpy as np

from model.scorer import Scorer
from stream.arms import Answer, Arms
from stream.events import Score, Spent, decode_score, encode_json
from stream.experiment.assignment import Assignment
from stream.settings import ArmSettings, Settings
from tests.model.learning import examples

USERS = [f"user-{number}" for number in range(20_000)]
SETTINGS = Settings(
    arms=(
        ArmSettings(name="sam", preset="sam-10", model={"item_dim": 4, "category_dim": 4}),
        ArmSettings(name="din", preset="din-10", model={"item_dim": 4, "category_dim": 4}),
        ArmSettings(name="counts", preset="counts-10"),
    ),
    seed=3,
)


def test_answers_keep_the_order_of_the_examples_and_are_those_of_the_users_own_arm() -> None:
    asked = examples(60, seed=1)
    users = [f"user-{number}" for number in range(len(asked))]
    both = Arms(SETTINGS, device="cpu")
    answers = both.answer(users, asked)
    assignment = Assignment({arm.name: arm.share for arm in SETTINGS.arms}, salt=SETTINGS.salt)
    alone = {arm.name: Scorer(arm.spec(), seed=SETTINGS.seed) for arm in SETTINGS.arms}
    assert {answer.arm for answer in answers} == alone.keys()
    for user, example, answer in zip(users, asked, answers, strict=True):
        assert answer.arm == assignment.arm(user)
        [probabilities] = alone[answer.arm].score([example])
        np.testing.assert_allclose(answer.probabilities, probabilities, atol=1e-5)
        assert answer.probabilities.dtype == np.float32
        assert (answer.epoch, answer.version) == (0, 0)


def test_every_order_is_a_permutation_best_first() -> None:
    asked = examples(30, seed=2)
    for example, answer in zip(asked, Arms(SETTINGS, device="cpu").answer(USERS[:30], asked), strict=True):
        assert sorted(answer.order.tolist()) == list(range(len(example.items)))
        assert np.all(np.diff(answer.probabilities[answer.order]) <= 0)


def test_nobody_asked_nobody_answered() -> None:
    assert Arms(SETTINGS, device="cpu").answer([], []) == []


def test_an_answer_comes_back_from_the_score_that_told_it() -> None:
    [answer] = Arms(SETTINGS, device="cpu").answer(["u"], examples(1, seed=4))
    score = Score(
        "r",
        "u",
        1,
        answer.arm,
        5,
        6,
        [f"i{place}" for place in range(len(answer.order))],
        answer.probabilities.tolist(),
        answer.order.tolist(),
        1,
        0,
        Spent(0.0, 0.0, 0.0),
    )
    back = Answer.given(decode_score(encode_json(score)))
    assert (back.arm, back.epoch, back.version) == (answer.arm, 5, 6)
    assert back.probabilities.dtype == np.float32
    assert back.probabilities.tobytes() == answer.probabilities.tobytes(), "to the bit, through JSON"
    assert back.order.tolist() == answer.order.tolist()


def test_the_cpu_time_of_scoring_is_divided_among_the_answers_of_an_arm() -> None:
    arms, asked = Arms(SETTINGS, device="cpu"), examples(12, seed=5)
    began = time.thread_time()
    answers = arms.answer(USERS[:12], asked)
    spent = 1000 * (time.thread_time() - began)
    assert 0.2 * spent < sum(answer.cpu_ms for answer in answers) <= spent
    for arm in arms.scorers:
        assert len({answer.cpu_ms for answer in answers if answer.arm == arm}) == 1, "twelve are one batch an arm"
