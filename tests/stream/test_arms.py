"""Arms: who is in which, and answers that fit their examples."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from model.scorer import Scorer
from stream.arms import Answer, Arms, Assignment
from stream.events import Score, Spent, decode_score, encode_json
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


def arms(**shares: float) -> list[ArmSettings]:
    return [ArmSettings(name=name, share=share) for name, share in shares.items()]


@pytest.mark.parametrize(
    "shares",
    [
        {"a": 1.0, "b": 1.0},
        {"a": 90.0, "b": 10.0},
        {"a": 0.001, "b": 0.999},
        {"a": 0.5, "nobody": 0.0, "b": 0.2, "c": 0.3},
        {"nobody": 0.0, "b": 1.0, "none": 0.0},
    ],
)
def test_shares_hold_within_five_standard_deviations(shares: dict[str, float]) -> None:
    assignment = Assignment(arms(**shares), salt="s")
    found = Counter(map(assignment.arm, USERS))
    for name, share in shares.items():
        p = share / sum(shares.values())
        expected, deviation = len(USERS) * p, math.sqrt(len(USERS) * p * (1 - p))
        assert abs(found[name] - expected) <= 5 * deviation
    assert found.total() == len(USERS)


def test_an_arm_depends_on_the_user_alone_and_not_on_who_asked_before() -> None:
    first, second = (Assignment(arms(a=1, b=2, c=3), salt="s") for _ in range(2))
    forwards = {user: first.arm(user) for user in USERS}
    backwards = {user: second.arm(user) for user in reversed(USERS)}
    assert forwards == backwards
    assert all(first.arm(user) == arm for user, arm in itertools.islice(forwards.items(), 100))


def test_another_salt_is_another_independent_assignment() -> None:
    pairs = Counter(
        (one.arm(user), two.arm(user))
        for one, two in [(Assignment(arms(a=1, b=1), salt="one"), Assignment(arms(a=1, b=1), salt="two"))]
        for user in USERS
    )
    deviation = math.sqrt(len(USERS) * 0.25 * 0.75)
    assert all(abs(count - len(USERS) / 4) <= 5 * deviation for count in pairs.values())
    assert len(pairs) == 4


def test_growing_an_arm_at_the_cost_of_its_neighbour_moves_nobody_else() -> None:
    before, after = Assignment(arms(a=1, b=1, c=2), salt="s"), Assignment(arms(a=1.5, b=0.5, c=2), salt="s")
    moved = {(before.arm(user), after.arm(user)) for user in USERS}
    assert moved == {("a", "a"), ("b", "a"), ("b", "b"), ("c", "c")}


def test_answers_keep_the_order_of_the_examples_and_are_those_of_the_users_own_arm() -> None:
    asked = examples(60, seed=1)
    users = [f"user-{number}" for number in range(len(asked))]
    both = Arms(SETTINGS, device="cpu")
    answers = both.answer(users, asked)
    assignment = Assignment(SETTINGS.arms, salt=SETTINGS.salt)
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
