"""Arms: who is in which, and answers that fit their examples."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from model.example import Example
from model.interest.baselines import PRIOR
from model.learner import Learner
from model.scorer import Scorer
from model.spec import ModelSpec
from stream.experiment.assignment import Assignment
from stream.experiment.interleaving import interleave, seeded_coin
from stream.schema.events import Candidate, Impression, Score, Spent, decode_score, encode_json
from stream.settings import ArmSettings, Settings
from stream.task.answer import Answer
from stream.task.resume import GivenAnswer
from stream.worker.fallback import FallbackAnswers
from stream.worker.scoring import ArmScorers
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


def asking(users: list[str], asked: list[Example]) -> list[Impression]:
    """The impressions of these examples, one a user."""
    return [
        Impression(f"request-{place}", user, example.ts, [Candidate(f"i{key}") for key in example.items.tolist()])
        for place, (user, example) in enumerate(zip(users, asked, strict=True))
    ]


def test_answers_keep_the_order_of_the_examples_and_are_those_of_the_users_own_arm() -> None:
    asked = examples(60, seed=1)
    users = [f"user-{number}" for number in range(len(asked))]
    both = ArmScorers(SETTINGS, device="cpu")
    answers = both.answer(asking(users, asked), asked)
    assignment = Assignment({arm.name: arm.share for arm in SETTINGS.arms}, salt=SETTINGS.salt)
    alone = {arm.name: Scorer(arm.spec(), seed=SETTINGS.seed) for arm in SETTINGS.arms}
    assert {answer.arm for answer in answers} == alone.keys()
    for user, example, answer in zip(users, asked, answers, strict=True):
        assert answer.arm == assignment.arm(user)
        assert both.statistics is not None
        [probabilities] = alone[answer.arm].score([both.statistics.with_numbers(example)])
        np.testing.assert_allclose(answer.probabilities, probabilities, atol=1e-5)
        assert answer.probabilities.dtype == np.float32
        assert (answer.epoch, answer.version) == (0, 0)


def test_every_order_is_a_permutation_best_first() -> None:
    asked = examples(30, seed=2)
    for example, answer in zip(
        asked, ArmScorers(SETTINGS, device="cpu").answer(asking(USERS[:30], asked), asked), strict=True
    ):
        assert sorted(answer.order.tolist()) == list(range(len(example.items)))
        assert np.all(np.diff(answer.probabilities[answer.order]) <= 0)


def test_nobody_asked_nobody_answered() -> None:
    assert ArmScorers(SETTINGS, device="cpu").answer([], []) == []


def test_an_answer_comes_back_from_the_score_that_told_it() -> None:
    asked = examples(1, seed=4)
    [answer] = ArmScorers(SETTINGS, device="cpu").answer(asking(["u"], asked), asked)
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
    back = Answer.recovered(GivenAnswer(decode_score(encode_json(score)), answer.numbers))
    assert (back.arm, back.epoch, back.version) == (answer.arm, 5, 6)
    assert back.probabilities.dtype == np.float32
    assert back.probabilities.tobytes() == answer.probabilities.tobytes(), "to the bit, through JSON"
    assert back.order.tolist() == answer.order.tolist()
    assert back.numbers == answer.numbers


MIXED = Settings(
    arms=(
        ArmSettings(name="counts", preset="counts-10", share=0.0),
        ArmSettings(name="lot", preset="random"),
        ArmSettings(name="both", interleave=("counts", "lot")),
    ),
    salt="mixed",
)


def served() -> ArmScorers:
    """Arms of which the first has learned and been updated once."""
    arms, learner = ArmScorers(MIXED, device="cpu"), Learner(MIXED.arms[0].spec())
    learner.begin_epoch(3)
    learner.learn(examples(8, seed=8))
    arms.by_model["counts"].apply(learner.base("counts"))
    return arms


def test_an_interleaved_arm_answers_with_a_list_that_both_models_drafted() -> None:
    arms, asked = served(), examples(60, seed=5)
    impressions = asking(USERS[:60], asked)
    answers = arms.answer(impressions, asked)
    assert {answer.arm for answer in answers} == {"lot", "both"}, "an arm without a share answers nobody alone"
    for impression, example, answer in zip(impressions, asked, answers, strict=True):
        if answer.arm != "both":
            assert answer.teams == ()
            continue
        assert arms.statistics is not None
        example = arms.statistics.with_numbers(example)
        counts, lot = (arms.by_model[name].score([example])[0] for name in ("counts", "lot"))
        expected = interleave(
            np.argsort(-counts, kind="stable").tolist(),
            np.argsort(-lot, kind="stable").tolist(),
            len(counts),
            seeded_coin(impression.request.text),
        )
        first, second = answer.teams
        assert (first.arm, first.epoch, second.arm, second.epoch) == ("counts", 3, "lot", 0)
        assert answer.order.tolist() == list(expected.items)
        drafted = dict(zip(expected.items, expected.teams, strict=True))
        assert {index for index, team in drafted.items() if team == "a"} == set(first.members)
        assert sorted([*first.members, *second.members]) == list(range(len(counts)))
        np.testing.assert_allclose(answer.probabilities[first.members], counts[first.members], atol=1e-6)
        np.testing.assert_allclose(answer.probabilities[second.members], lot[second.members], atol=1e-6)


def test_a_repeated_request_gets_the_same_list_and_another_one_is_drafted_again() -> None:
    asked = examples(40, seed=6)
    impressions = asking(USERS[:40], asked)
    first, again = served().answer(impressions, asked), served().answer(impressions, asked)
    assert [(one.order.tolist(), one.teams) for one in first] == [(one.order.tolist(), one.teams) for one in again]
    renamed = [msgspec.structs.replace(each, request_id=f"other-{each.request_id}") for each in impressions]
    other = served().answer(renamed, asked)
    changed = [one.teams != two.teams for one, two in zip(first, other, strict=True) if one.teams]
    assert 0.2 < np.mean(changed) < 0.95, "the coin falls again"


def test_users_whose_requests_are_all_numbered_from_one_are_not_all_begun_by_the_same_arm() -> None:
    [example] = examples(1, seed=6)
    users = [f"front-end-{number}" for number in range(400)]
    impressions = [msgspec.structs.replace(each, request_id="1") for each in asking(users, [example] * len(users))]
    answers = [answer for answer in served().answer(impressions, [example] * len(users)) if answer.teams]
    firsts = [int(answer.order[0]) in answer.teams[0].members for answer in answers]
    assert len(firsts) > 100
    assert 0.3 < np.mean(firsts) < 0.7


def test_who_drafts_first_is_the_requests_lot() -> None:
    firsts = [seeded_coin(f"request-{number}")() for number in range(2000)]
    assert 0.45 < np.mean(firsts) < 0.55
    coin, again = seeded_coin("request"), seeded_coin("request")
    throws = [coin() for _ in range(400)]
    assert throws == [again() for _ in range(400)]
    assert 150 < sum(throws) < 250


def test_the_cpu_time_of_scoring_is_divided_among_the_answers_of_an_arm() -> None:
    arms, asked = ArmScorers(SETTINGS, device="cpu"), examples(12, seed=5)
    began = time.thread_time()
    answers = arms.answer(asking(USERS[:12], asked), asked)
    spent = 1000 * (time.thread_time() - began)
    assert 0.2 * spent < sum(answer.cpu_ms for answer in answers) <= spent
    for arm in arms.by_model:
        assert len({answer.cpu_ms for answer in answers if answer.arm == arm}) == 1, "twelve are one batch an arm"


# --- arms that cannot answer -----------------------------------------------------------------------------------------


def broken(arms: ArmScorers, arm: str, monkeypatch: pytest.MonkeyPatch, what: Callable[[Example], float]) -> None:
    """Break an arm's scorer: it answers with NaN, or fails (infinity), where `what` says so of an example."""
    good = arms.by_model[arm].score

    def score(asked: Sequence[Example]) -> list[npt.NDArray[np.float32]]:
        if any(what(example) == math.inf for example in asked):
            raise RuntimeError("no such row")
        return [
            np.full_like(predicted, math.nan) if math.isnan(what(example)) else predicted
            for example, predicted in zip(asked, good(asked), strict=True)
        ]

    monkeypatch.setattr(arms.by_model[arm], "score", score)


def as_score(impression: Impression, answer: Answer) -> Score:
    """The answer as it is read from Kafka, checked as readers check it."""
    written = Score(
        impression.request_id,
        impression.user,
        impression.ts,
        answer.arm,
        answer.epoch,
        answer.version,
        [candidate.item for candidate in impression.candidates],
        answer.probabilities.tolist(),
        answer.order.tolist(),
        1,
        0,
        Spent(0.0, 0.0, 0.0),
        teams=list(answer.teams),
    )
    return decode_score(encode_json(written))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_arm_that_cannot_answer_has_the_candidates_own_order_and_stops_no_other(
    bad: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = examples(60, seed=1)
    impressions = asking(USERS[:60], asked)
    arms = ArmScorers(SETTINGS, device="cpu")
    before = arms.answer(impressions, asked)
    broken(arms, "din", monkeypatch, lambda _: bad)
    answers = arms.answer(impressions, asked)
    fallen = 0
    for impression, example, good, answer in zip(impressions, asked, before, answers, strict=True):
        assert answer.arm == good.arm
        if answer.arm != "din":
            assert answer.probabilities.tobytes() == good.probabilities.tobytes()
            continue
        fallen += 1
        score = as_score(impression, answer)
        assert score.order == list(range(len(example.items)))
        assert score.probabilities == [pytest.approx(PRIOR)] * len(example.items)
        assert (score.epoch, score.version) == (0, 0)
    assert fallen > 10
    assert arms.fallback.counts == {"din": fallen}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, "one line, however many answers"
    assert said[0].startswith("answers_not_finite arm=din answers=1 reason=")
    reason = "not finite" if math.isnan(bad) else "no such row"
    assert reason in said[0]
    [note] = arms.fallback.notes()
    assert note.startswith(f"arm din: {fallen} answers so far in the candidates' own order")
    assert reason in note


def test_only_the_requests_that_a_model_cannot_answer_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [example for example in examples(40, seed=3) if len(example.items) > 1]
    arms = ArmScorers(Settings(arms=(ArmSettings(name="counts", preset="counts-10"),)), device="cpu")
    arms.by_model["counts"].apply(dataclasses.replace(Learner(arms_spec()).base("counts"), epoch=1))
    values = {asked[1].sequence.tobytes(): math.nan, asked[4].sequence.tobytes(): math.inf}
    broken(arms, "counts", monkeypatch, lambda example: values.get(example.sequence.tobytes(), 0.0))
    answers = arms.answer(asking(USERS[: len(asked)], asked), asked)
    assert [place for place, answer in enumerate(answers) if answer.epoch == 0] == [1, 4]
    assert arms.fallback.counts == {"counts": 2}


def arms_spec() -> ModelSpec:
    return ArmSettings(name="counts", preset="counts-10").spec()


def test_of_an_interleaved_list_the_team_that_cannot_answer_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    arms, asked = served(), examples(60, seed=5)
    impressions = asking(USERS[:60], asked)
    broken(arms, "counts", monkeypatch, lambda _: math.nan)
    mixed = 0
    for impression, answer in zip(impressions, arms.answer(impressions, asked), strict=True):
        if answer.arm == "both":
            mixed += 1
            first, second = as_score(impression, answer).teams
            assert (first.arm, first.epoch, first.version, second.arm) == ("counts", 0, 0, "lot")
            assert answer.probabilities[first.members].tolist() == [pytest.approx(PRIOR)] * len(first.members)
    assert mixed > 10
    assert arms.fallback.counts == {"counts": mixed}


def test_arms_that_could_not_answer_are_logged_again_after_half_a_minute_and_said_for_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    fallback = FallbackAnswers(clock=lambda: now[0])
    for at in (0.0, 1.0, 29.9, 30.0, 31.0):
        now[0] = at
        fallback.answer("a", 3, "none")
    assert [record.getMessage() for record in caplog.records] == [
        "answers_not_finite arm=a answers=1 reason=none",
        "answers_not_finite arm=a answers=3 reason=none",
    ]
    now[0] = 90.9
    assert len(fallback.notes()) == 1
    now[0] = 91.0
    assert fallback.notes() == []


def test_an_answer_says_which_behaviours_weighed_most_where_it_is_asked_and_the_model_can_tell() -> None:
    asked = [example for example in examples(60, seed=1) if len(example.sequence) > 1]
    impressions = asking([f"user-{number}" for number in range(len(asked))], asked)
    scorers = ArmScorers(SETTINGS, device="cpu")
    plain = scorers.answer(impressions, asked)
    told = scorers.answer([msgspec.structs.replace(each, explain=True) for each in impressions], asked)
    assert not any(answer.why for answer in plain)
    assert {answer.arm for answer in told if answer.why} == {"sam", "din"}
    for example, one, other in zip(asked, plain, told, strict=True):
        assert one.probabilities.tobytes() == other.probabilities.tobytes(), "to ask why changes no answer"
        weights = [reason.weight for reason in other.why]
        assert weights == sorted(weights, reverse=True)
        assert all(0 < weight < 1 for weight in weights)
        if other.arm != "counts":
            assert len(weights) == min(5, len(example.sequence), 10)
            assert {reason.ts for reason in other.why} <= set(example.sequence["ts"][-10:].tolist())
