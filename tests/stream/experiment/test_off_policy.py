"""Off-policy estimates find the true click rate of an arm that nobody saw, and refuse where it is not identified."""

import itertools
import math

import numpy as np
import pytest

from stream.errors import ExperimentError
from stream.experiment.ledger import Ledger
from stream.experiment.off_policy import ClickModel, OffPolicyEstimate, off_policy_estimate
from stream.experiment.shadow_log import LoggedImpression, ShadowLog
from stream.schema.events import Outcome, Score, Shadow, Spent, Team, decode_score, encode_json

SHARES = {"a": 3.0, "b": 1.0}
SLATES = list(itertools.permutations(range(3), 2))
"""All lists of two of three candidates."""


def world(
    rng: np.random.Generator, *, users: int = 600, visits: int = 10, position: float = 1.0, novel: float = 0.0
) -> tuple[list[LoggedImpression], float]:
    """Users in random arms; the shadow `c` mixes what `a` and `b` show. Returns the log, and the true rate of `c`.

    Candidate i of an impression is clicked with a probability of its own, times `position` at the second place. Models
    are badly calibrated: what `c` predicts is twice as much.
    """
    log, truth = [], []
    for number in range(users):
        arm = "a" if rng.random() < 0.75 else "b"
        for _ in range(visits):
            attraction = rng.beta(1, 4, 3)
            a, b = (list(SLATES[index]) for index in rng.integers(len(SLATES), size=2))
            c = list(a if rng.random() < 0.4 else b)
            if rng.random() < novel:
                c = list(SLATES[rng.integers(len(SLATES))])
            slates = {"a": a, "b": b, "c": c}
            chances = {name: attraction[slate] * np.array([1.0, position]) for name, slate in slates.items()}
            clicked = frozenset(np.flatnonzero(rng.random(2) < chances[arm]).tolist())
            predicted = {name: np.minimum(1, 2 * attraction[slate]).tolist() for name, slate in slates.items()}
            log.append(LoggedImpression(f"u{number}", arm, slates, clicked, predicted))
            truth.append(chances["c"].mean())
    return log, float(np.mean(truth))


def estimated(
    log: list[LoggedImpression], arm: str = "c", *, clicks: ClickModel = "item-position", clip: float = math.inf
) -> OffPolicyEstimate:
    return off_policy_estimate(log, arm, SHARES, alpha=0.05, minimum_effect=0.05, click_model=clicks, clip=clip)


@pytest.mark.long
@pytest.mark.parametrize("clicks", ["item", "item-position", "slate"])
def test_all_three_estimates_find_the_truth(clicks: ClickModel) -> None:
    log, truth = world(np.random.default_rng(1), users=1500)
    found = estimated(log, clicks=clicks)
    for name in ("ips", "snips", "doubly_robust"):
        value, low, high = getattr(found, name)
        assert value == pytest.approx(truth, rel=0.08), name
        assert low < truth < high
    assert found.unsupported == 0
    assert found.largest_weight == pytest.approx(4)
    assert (found.clipped, found.incomplete, found.impressions, found.users) == (0, 0, 15_000, 1500)
    assert found.effective_users < 1500


@pytest.mark.slow
def test_they_are_unbiased_over_many_worlds_and_their_intervals_hold() -> None:
    """Also the doubly robust one, though what it predicts is wrong by half."""
    errors, missed = [], np.zeros(3)
    for seed in range(40):
        log, truth = world(np.random.default_rng([2, seed]), users=300)
        found = estimated(log)
        each = (found.ips, found.snips, found.doubly_robust)
        errors.append([interval.value - truth for interval in each])
        missed += [not interval.low <= truth <= interval.high for interval in each]
    mean, error = np.mean(errors, axis=0), np.std(errors, axis=0) / math.sqrt(len(errors))
    assert (np.abs(mean) < 3 * error).all()
    assert (missed <= 0.05 * 40).all()


@pytest.mark.long
def test_a_serving_arm_has_the_rate_that_it_reached() -> None:
    log, _ = world(np.random.default_rng(3), users=1500)
    reached = np.mean([len(each.clicked) / 2 for each in log if each.arm == "b"])
    assert estimated(log, "b").doubly_robust.value == pytest.approx(reached, rel=0.08)


@pytest.mark.slow
def test_a_click_model_that_ignores_places_is_wrong_where_places_matter() -> None:
    """`d` shows what `a` shows, turned round: only items are known of it, and the places of its clicks are a's."""
    log, _ = world(np.random.default_rng(4), users=1500, position=0.3)
    turned = [
        LoggedImpression(
            each.user, each.arm, {**each.slates, "d": each.slates["a"][::-1]}, each.clicked,
            {**each.predicted, "d": each.predicted["a"][::-1]},
        )
        for each in log
    ]  # fmt: skip
    assert estimated(turned, "d", clicks="item").unsupported == 0
    with pytest.raises(ExperimentError, match=r'shown by no arm that serves.*--clicks "item"'):
        estimated(turned, "d")


@pytest.mark.slow
def test_what_no_arm_shows_widens_the_interval_and_much_of_it_is_refused() -> None:
    log, truth = world(np.random.default_rng(5), users=1500, novel=0.04)
    found = estimated(log)
    assert 0.01 < found.unsupported < 0.05
    assert found.ips.low < truth < found.ips.high
    assert found.ips.high - found.ips.value > found.ips.value - found.ips.low
    with pytest.raises(ExperimentError, match="give it a small share of the users instead"):
        estimated(world(np.random.default_rng(6), novel=0.5)[0])


@pytest.mark.long
def test_clipping_is_told_and_lowers_ips() -> None:
    log, truth = world(np.random.default_rng(7), users=1500)
    clipped = estimated(log, clip=1.5)
    assert clipped.clipped > 0.1
    assert clipped.largest_weight == pytest.approx(4)
    assert clipped.ips.value < 0.9 * truth


def test_rankings_that_are_missing_and_few_data_are_refused() -> None:
    log, _ = world(np.random.default_rng(8), users=40)
    with pytest.raises(ExperimentError, match="50 and 50 are needed"):
        estimated(log)
    with pytest.raises(ExperimentError, match="shadow = true"):
        estimated(log, "d")
    partly = [
        LoggedImpression(each.user, each.arm, {each.arm: each.slates[each.arm]}, each.clicked, each.predicted)
        for each in log
    ]
    with pytest.raises(ExperimentError, match=r"400 say less\): give every one of these arms shadow = true"):
        estimated(partly)


def test_scores_and_outcomes_are_joined_once_each() -> None:
    log, ledger = ShadowLog(), Ledger()
    ledger.on_counted = log.add_counted
    spent = Spent(0, 0, 0)
    for number, teams in enumerate(([], [Team("a", 1, 1, [0, 1, 2])], [])):
        score = Score(
            f"r{number}", "u", 5, "a", 1, 1, ["x", "y", "z"], [0.1, 0.3, 0.2], [1, 2, 0], 2, 0, spent, teams=teams,
            shadows=[Shadow("b", 1, 4, [0, 2], [0.9, 0.8])],
        )  # fmt: skip
        for _ in range(2):
            log.add_score(decode_score(encode_json(score)))
    for number in (0, 1, 7):
        for _ in range(2):
            ledger.add(0, Outcome(f"r{number}", "u", "a", 5, 1, 1, ["z"], [1], [0.2], [1]))
            ledger.add(0, Outcome(f"r{number}", "u", "a", 5, 1, 1, ["y"], [0], [0.3], [0]))
    [joined] = log.impressions()
    assert joined == LoggedImpression(
        "u", "a", {"a": (1, 2), "b": (0, 2)}, frozenset({1}), {"a": (0.3, 0.2), "b": (0.9, 0.8)}
    )
    assert log.without_score == 2


def test_with_one_item_shown_they_are_those_of_the_open_bandit_pipeline() -> None:
    """Where `obp` (sb-obp; Saito, Aihara, Matsutani and Narita 2021) is installed; it belongs to no extra."""
    ope = pytest.importorskip("obp.ope", reason="obp is not installed")
    rng, rounds, candidates = np.random.default_rng(9), 4000, 3
    log, target, chosen, rewards, propensities, predicted = [], [], [], [], [], []
    for number in range(rounds):
        a, b, c = rng.integers(candidates, size=3).tolist()
        c = a if rng.random() < 0.5 else b
        arm = "a" if rng.random() < 0.75 else "b"
        shown = a if arm == "a" else b
        click = int(rng.random() < 0.1 + 0.2 * shown)
        slates = {"a": [a], "b": [b], "c": [c]}
        chances = {name: [0.05 + 0.1 * slate[0]] for name, slate in slates.items()}
        log.append(LoggedImpression(f"u{number}", arm, slates, frozenset([0] if click else []), chances))
        target.append(c)
        chosen.append(shown)
        rewards.append(click)
        propensities.append(0.75 * (a == shown) + 0.25 * (b == shown))
        predicted.append([0.05 + 0.1 * item for item in range(candidates)])
    found = estimated(log)
    common = {
        "reward": np.array(rewards), "action": np.array(chosen), "pscore": np.array(propensities),
        "action_dist": np.eye(candidates)[target][:, :, None],
    }  # fmt: skip
    ips = ope.InverseProbabilityWeighting().estimate_policy_value(**common)
    snips = ope.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**common)
    robust = ope.DoublyRobust().estimate_policy_value(
        **common, estimated_rewards_by_reg_model=np.array(predicted)[:, :, None]
    )
    assert found.ips.value == pytest.approx(ips)
    assert found.snips.value == pytest.approx(snips)
    assert found.doubly_robust.value == pytest.approx(robust)
