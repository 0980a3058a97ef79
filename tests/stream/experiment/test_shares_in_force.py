"""Shares that a bandit chooses: which steps count, who is moved by them, and who never is."""

import itertools
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.cli.main import main
from stream.errors import SettingsError
from stream.experiment.assignment import Assignment
from stream.experiment.plan import read
from stream.experiment.shares_in_force import Explorers, SharesInForce
from stream.schema.shares import SharesStep, decode_shares, encode_shares
from stream.settings import ArmSettings, Settings, convert, load

SALT = "bandit-1"
BANDIT = {"explore": 0.3, "floor": 0.1, "every_s": 60, "notice_s": 10}
SETTINGS = convert({"salt": SALT, "arms": [{"name": "a"}, {"name": "b"}], "bandit": BANDIT})
USERS = [f"user-{number}" for number in range(2000)]


def step(begin: int, a: float = 0.8, **changed: object) -> SharesStep:
    made = SharesStep(
        experiment="experiment", salt=SALT, begin=begin, shares={"a": a, "b": 1 - a}, best={"a": a, "b": 1 - a}
    )
    return msgspec.structs.replace(made, **changed)


def test_before_the_first_step_everybody_is_divided_by_the_arms_own_shares() -> None:
    shares, own = SharesInForce(SETTINGS), Assignment({"a": 1, "b": 1}, salt=SALT)
    for user in USERS:
        assert shares.assign(user, 0) == (own.arm(user), {"a": 0.5, "b": 0.5})


def test_a_step_moves_as_few_as_it_can_of_those_who_do_not_explore_and_none_who_do() -> None:
    shares, explorers = SharesInForce(SETTINGS), Explorers(salt=SALT, share=0.3)
    assert shares.add(step(100_000), written=50_000)
    before, after = ([shares.assign(user, ts) for user in USERS] for ts in (99_999, 100_000))
    moved: Counter[tuple[str, str]] = Counter()
    for user, one, other in zip(USERS, before, after, strict=True):
        if user in explorers:
            assert one == other == (one.arm, {"a": 0.5, "b": 0.5})
        else:
            assert other.shares == {"a": 0.8, "b": pytest.approx(0.2)}
            moved[one.arm, other.arm] += 1
    assert moved["a", "b"] == 0
    assert moved["b", "a"] / moved.total() == pytest.approx(0.3, abs=0.04)
    assert sum(user in explorers for user in USERS) / len(USERS) == pytest.approx(0.3, abs=0.04)


def test_who_explores_has_nothing_to_do_with_the_arm() -> None:
    explorers, own = Explorers(salt=SALT, share=0.3), Assignment({"a": 1, "b": 1}, salt=SALT)
    of_a = [user in explorers for user in USERS if own.arm(user) == "a"]
    of_b = [user in explorers for user in USERS if own.arm(user) == "b"]
    assert sum(of_a) / len(of_a) == pytest.approx(sum(of_b) / len(of_b), abs=0.06)


@pytest.mark.parametrize(
    ("wrong", "written"),
    [
        (step(100_000), 100_000),  # too late: some workers may have answered by other shares already
        (step(100_000, a=0.95), 0),  # below the floor
        (step(100_000, salt="another"), 0),
        (step(100_000, experiment="another"), 0),
        (step(100_000, shares={"a": 1.0}), 0),
        (step(100_000, shares={"a": 0.5, "b": 0.3, "c": 0.2}), 0),
        (step(100_000, shares={"a": 0.5, "b": 0.4}), 0),
    ],
)
def test_what_is_no_step_of_this_experiment_changes_nothing(wrong: SharesStep, written: int) -> None:
    shares = SharesInForce(SETTINGS)
    before = [shares.assign(user, 200_000) for user in USERS[:100]]
    assert not shares.add(wrong, written)
    assert [shares.assign(user, 200_000) for user in USERS[:100]] == before


def test_without_a_bandit_no_step_counts_and_no_shares_are_told() -> None:
    shares = SharesInForce(Settings(salt=SALT, arms=SETTINGS.arms))
    assert not shares.add(step(100_000), 0)
    assert shares.assign("u", 200_000).shares == {}


@pytest.mark.long
@given(st.lists(st.tuples(st.integers(0, 400_000), st.integers(0, 400_000), st.floats(0.1, 0.9)), max_size=20))
def test_whoever_reads_the_log_comes_to_the_same_schedule_with_steps_that_hold_long_enough(
    log: list[tuple[int, int, float]],
) -> None:
    """Two bandits by mistake, late records and clocks that are behind: what counts follows from the log alone."""
    one, early = SharesInForce(SETTINGS), SharesInForce(SETTINGS)
    counted = [begin for begin, written, a in log if one.add(step(begin, a), written)]
    assert all(later - before >= 60_000 for before, later in itertools.pairwise(counted))
    # Somebody who began to read in the middle of the traffic has answered earlier impressions in the same way.
    for begin, written, a in log:
        asked = {ts: early.assign("u", ts).arm for ts in range(0, written, 50_000) if ts < early.begun}
        early.add(step(begin, a), written)
        assert all(early.assign("u", ts).arm == arm for ts, arm in asked.items())
    for user, ts in ((user, random.Random(user).randrange(500_000)) for user in USERS[:50]):
        assert one.assign(user, ts) == early.assign(user, ts)


def test_a_step_travels_as_json() -> None:
    sent = step(100_000, shown={"a": 500, "b": 400}, clicks={"a": 50, "b": 30})
    assert decode_shares(encode_shares(sent)) == sent


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bandit": {**BANDIT, "floor": 0.5}}, "bandit.floor=0.5 for each of 2 arms leaves nothing to choose"),
        ({"bandit": {**BANDIT, "notice_s": 5}}, "must be longer than worker.max_future_s=5"),
        ({"arms": [{"name": "a"}]}, "a bandit needs two arms"),
        ({"ramp": [{"at": "2026-03-02T00:00:00Z", "shares": {"a": 2}}]}, "drop one of them"),
        (
            {"arms": [{"name": "a"}, {"name": "b"}, {"name": "ab", "interleave": ["a", "b"]}]},
            "'ab' interleaves others",
        ),
    ],
)
def test_settings_refuse_a_bandit_that_cannot_be(changed: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        convert({**msgspec.to_builtins(SETTINGS), **changed})
    off = {**msgspec.to_builtins(SETTINGS), **changed, "bandit": {"floor": 0.9}}
    assert convert({name: value for name, value in off.items() if name != "ramp"}).bandit.on is False


def test_an_arm_without_a_share_is_no_arm_of_the_bandit() -> None:
    arms = (*SETTINGS.arms, ArmSettings(name="shadow", share=0, shadow=True))
    shares = SharesInForce(msgspec.structs.replace(SETTINGS, arms=arms))
    assert shares.add(step(100_000), 0)
    assert {shares.assign(user, 100_000).arm for user in USERS} == {"a", "b"}


def test_an_experiments_file_says_what_its_bandit_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(
        'name = "b"\nsalt = "b-1"\n[[arms]]\nname = "a"\n[[arms]]\nname = "c"\nlength = 50\n'
        "[bandit]\nexplore = 0.25\nfloor = 0.1\nevery_s = 300\n"
    )
    assert main(["experiment", "check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "25% of the users explore" in said
    assert "at least 10% an arm, which hold for 300 s or longer" in said
    assert main(["experiment", "settings", str(file)]) == 0
    (settings := tmp_path / "settings.json").write_text(capsys.readouterr().out)
    plan = read(file)
    assert load(settings, environ={}).bandit == plan.bandit
    assert ("u" in plan.explorers) == ("u" in Explorers(salt="b-1", share=0.25))
