"""When a bandit writes shares, and what it leaves out; and that it needs to be switched on."""

import threading

import pytest
from msgspec.structs import replace

from stream.bandit.run import Bandit, run_bandit
from stream.errors import SettingsError
from stream.experiment.assignment import Assignment
from stream.experiment.shares_in_force import SharesInForce
from stream.schema.erasures import Erased, Erasures, Void
from stream.schema.events import Outcome, decode_outcome, encode_packed
from stream.schema.record import Record
from stream.settings import Settings, convert

SALT = "bandit-2"
SETTINGS = convert(
    {
        "salt": SALT,
        "arms": [{"name": "a"}, {"name": "b"}],
        "bandit": {"explore": 0.9, "floor": 0.1, "every_s": 60, "notice_s": 10},
    }
)
USERS = [f"u{number}" for number in range(400)]
OF = Assignment({"a": 1, "b": 1}, salt=SALT)


def records(clicks: dict[str, int]) -> list[Record]:
    found: list[Record] = []
    for number, user in enumerate(USERS):
        arm = OF.arm(user)
        for label, places in ((1, range(clicks[arm])), (0, range(clicks[arm], 10))):
            made = Outcome(
                f"r{number}", user, arm, 1000 + number, 1, 1, [f"i{place}" for place in places], list(places),
                [0.5] * len(places), [label] * len(places), read_to=5, propensity=0.5,
            )  # fmt: skip
            found.append(Record("outcomes", 0, len(found), 0, None, encode_packed(made)))
    return found


def test_shares_are_written_ahead_once_and_held_long_enough() -> None:
    shares = SharesInForce(SETTINGS)
    bandit = Bandit(SETTINGS, shares, Erasures())
    assert bandit.choose(1_000_000) is None  # nothing is known
    assert bandit.best == {}
    for record in records({"a": 4, "b": 2}):
        bandit.add(record)
    assert bandit.choose(1_000_001) is None  # it has just looked
    step = bandit.choose(1_020_000)
    assert step is not None
    assert step.begin == 1_030_000
    assert step.shares == pytest.approx({"a": 0.9, "b": 0.1})
    assert bandit.choose(1_021_000) is None  # what it wrote may not be read yet
    assert shares.add(step, 1_020_100)
    assert bandit.choose(1_079_000) is None  # they hold for a minute
    assert bandit.choose(1_085_000) is None  # and go on holding, as nothing has changed
    assert bandit.best == pytest.approx({"a": 1.0, "b": 0.0})


def test_outcomes_of_workers_without_a_bandit_teach_nothing_and_are_said() -> None:
    bandit = Bandit(SETTINGS, SharesInForce(SETTINGS), Erasures())
    with_bandit = records({"a": 4, "b": 2})
    without = [
        record._replace(value=encode_packed(replace(decode_outcome(record.value or b""), propensity=0.0)))
        for record in with_bandit
    ]
    for record in without:
        bandit.add(record)
    assert bandit.choose(1_000_000) is None
    [note] = bandit.notes()
    assert note.startswith(f"{bandit.without_propensity} outcomes so far")
    assert 0.8 * len(without) < bandit.without_propensity < len(without)  # those of explorers
    for record in with_bandit:
        bandit.add(record)
    assert bandit.notes() == []
    assert bandit.choose(1_020_000) is not None


def test_erased_users_and_what_is_no_outcome_teach_nothing() -> None:
    erasures = Erasures()
    for offset, user in enumerate(USERS):
        if OF.arm(user) == "a":
            erasures.of(0).add(Erased(user, Void(behaviors=6), 0, offset))
    bandit = Bandit(SETTINGS, SharesInForce(SETTINGS), erasures)
    for record in [*records({"a": 4, "b": 2}), Record("outcomes", 0, 999, 0, None, b"?")]:
        bandit.add(record)
    assert bandit.choose(1_000_000) is None


def test_a_bandit_that_is_off_says_how_it_is_switched_on() -> None:
    with pytest.raises(SettingsError, match=r"set bandit\.explore below 1"):
        run_bandit(Settings(), threading.Event(), threading.Event())
