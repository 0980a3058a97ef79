"""A verdict names a winner when the data do, says why when it names none, and is right as often as it promises."""

import numpy as np
import pytest

from stream.experiment.user_sums import UserSums
from stream.experiment.verdict import MIN_USERS, Verdict
from tests.stream.experiment.judging import analyse

EQUAL = {"a": 1.0, "b": 1.0}


def lived(
    rates: dict[str, float], *, users: int = 300, visits: int = 20, seed: int = 0, wearing: bool = False
) -> UserSums:
    """Every arm has `users` users with a click rate near its own, who come over 90 units of time."""
    rng = np.random.default_rng(seed)
    sums = UserSums()
    for arm, rate in rates.items():
        own = rng.beta(40 * rate, 40 * (1 - rate), users)
        names = [f"{arm}{user}" for user in range(users)]
        for time in np.sort(rng.uniform(0, 90, visits)):
            now = own * (2.0 - 1.5 * time / 90) if wearing and arm == "a" else own
            sums.extend(arm, names, np.full(users, 10), rng.binomial(10, np.minimum(now, 1)), np.full(users, time))
    return sums


def kinds(verdict: Verdict) -> list[tuple[str, bool]]:
    return [(doubt.kind, doubt.fatal) for doubt in verdict.doubts]


def test_a_clear_winner_is_named_with_its_lift_and_interval() -> None:
    verdict = analyse(lived({"a": 0.15, "b": 0.1}, seed=1), EQUAL)
    (pair,) = verdict.pairs
    assert verdict.winner == pair.arm == "a"
    assert verdict.users == verdict.effective_users == {"a": 300, "b": 300}
    assert pair.lift.low < 0.5 < pair.lift.high
    assert pair.difference.low < 0.05 < pair.difference.high
    assert pair.lift.low > 0
    assert pair.p < 0.001
    assert verdict.sentence.startswith("a wins: clicks against b +")
    assert verdict.doubts == []


def test_the_same_whichever_arm_comes_first_in_the_settings() -> None:
    sums = lived({"a": 0.15, "b": 0.1})
    assert analyse(sums, {"b": 1, "a": 1}).pairs == analyse(sums, EQUAL).pairs


def test_no_winner_among_equals() -> None:
    verdict = analyse(lived({"a": 0.1, "b": 0.1}), EQUAL)
    assert verdict.winner is None
    assert "may be chance" in verdict.sentence
    assert verdict.pairs[0].lift.low < 0 < verdict.pairs[0].lift.high


@pytest.mark.parametrize(
    ("sums", "shares", "kind"),
    [
        (lived({"a": 0.2, "b": 0.1}, users=MIN_USERS - 1), EQUAL, "few"),
        (lived({"a": 0.2, "b": 0.001}, visits=2), EQUAL, "few"),
        (lived({"a": 0.2, "b": 0.1}), {"a": 2.0, "b": 1.0}, "mismatch"),
        (UserSums(), EQUAL, "few"),
    ],
    ids=["users", "clicks", "mismatch", "nothing"],
)
def test_what_makes_it_invalid_leaves_no_winner(sums: UserSums, shares: dict[str, float], kind: str) -> None:
    verdict = analyse(sums, shares)
    assert verdict.winner is None
    assert (kind, True) in kinds(verdict)
    assert verdict.sentence.startswith("No verdict: ")


def test_many_users_of_whom_a_few_do_most_are_few() -> None:
    sums = lived({"a": 0.15, "b": 0.1})
    assert analyse(sums, EQUAL).winner == "a"
    for arm in "ab":
        sums.extend(arm, [f"{arm}{user}" for user in range(5)], [8000] * 5, [1000] * 5, [50.0] * 5)
    verdict = analyse(sums, EQUAL)
    assert kinds(verdict)[0] == ("few", True)
    assert "a has 300 users (worth " in verdict.sentence


def test_users_in_two_arms_are_told_and_many_are_fatal() -> None:
    sums = lived({"a": 0.2, "b": 0.1})
    sums.add("a0", "b", 10, 1, 50)
    one = analyse(sums, EQUAL)
    assert one.winner == "a"
    assert kinds(one) == [("crossed", False)]
    for user in range(1, 40):
        sums.add(f"a{user}", "b", 10, 1, 50)
    many = analyse(sums, EQUAL)
    assert many.winner is None
    assert ("crossed", True) in kinds(many)


def test_an_effect_that_wears_off_is_told_beside_the_winner() -> None:
    verdict = analyse(lived({"a": 0.15, "b": 0.1}, wearing=True), EQUAL)
    assert verdict.winner == "a"
    assert kinds(verdict) == [("drift", False)]
    assert "in the thirds of the time" in verdict.sentence


def test_the_best_of_three_must_beat_both_others() -> None:
    clear = analyse(lived({"a": 0.1, "b": 0.2, "c": 0.1}), {**EQUAL, "c": 1})
    assert clear.winner == "b"
    assert [(pair.arm, pair.against) for pair in clear.pairs[:2]] in (
        [("b", "a"), ("b", "c")],
        [("b", "c"), ("b", "a")],
    )
    tied = analyse(lived({"a": 0.2, "b": 0.2, "c": 0.1}), {**EQUAL, "c": 1})
    assert tied.winner is None
    assert len(tied.pairs) == 3


def test_one_arm_alone_is_not_compared() -> None:
    verdict = analyse(lived({"a": 0.1}), {"a": 1.0, "off": 0.0})
    assert (verdict.winner, verdict.pairs) == (None, [])


def test_a_time_before_narrows_the_interval() -> None:
    rng = np.random.default_rng(3)
    sums, plain = UserSums(), UserSums()
    for arm in "ab":
        own = rng.beta(2, 18, 400)
        names = [f"{arm}{user}" for user in range(400)]
        clicks = rng.binomial(200, own)
        for each in (sums, plain):
            each.extend(arm, names, np.full(400, 200), clicks, np.zeros(400))
        sums.add_before(names, np.full(400, 200), rng.binomial(200, own))
    (pair,), (without,) = analyse(sums, EQUAL).pairs, analyse(plain, EQUAL).pairs
    assert pair.variance_left < 0.5
    assert without.variance_left == 1
    assert pair.lift.high - pair.lift.low < 0.8 * (without.lift.high - without.lift.low)


def test_of_next_to_no_data_the_lift_may_be_anything() -> None:
    sums = UserSums()
    for arm, clicks in (("a", (30, 0)), ("b", (1, 0))):
        sums.extend(arm, [f"{arm}1", f"{arm}2"], [30, 1], list(clicks), [0, 0])
    (pair,) = analyse(sums, EQUAL, minimum_effect=1e-6).pairs
    assert pair.lift.low == pytest.approx(-1)
    assert pair.lift.high == np.inf


@pytest.mark.long
def test_three_equal_arms_have_a_winner_in_at_most_five_of_a_hundred_worlds_with_peeking() -> None:
    """The whole way, through sums and `analyse`, a look after every visit of everybody."""
    named = 0
    for world in range(40):
        rng = np.random.default_rng([9, world])
        sums, own = UserSums(), rng.beta(4, 36, (3, 80))
        winners = set()
        for time in range(8):
            for place, arm in enumerate("abc"):
                clicks = rng.binomial(40, own[place])
                sums.extend(arm, [f"{arm}{user}" for user in range(80)], np.full(80, 40), clicks, np.full(80, time))
            winners.add(analyse(sums, {"a": 1, "b": 1, "c": 1}).winner)
        named += winners != {None}
    assert named / 40 <= 0.05
