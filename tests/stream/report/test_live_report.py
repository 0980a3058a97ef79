"""The report on live traffic has the truth's numbers, says what is unknown, and what may be missing."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.experiment.assignment import Assignment
from stream.experiment.guardrails.counts import GuardrailCounts
from stream.experiment.ledger import Ledger, ReadSummary
from stream.experiment.plan import Experiment
from stream.experiment.serving_cost import ServingCosts
from stream.report.live_report import live_report
from stream.report.pages.experiment import experiment_page
from stream.report.pages.page import render_page
from stream.report.sentences import broken_guardrail_lines, headline
from stream.report.writer import write_experiment
from stream.schema.events import Score, Spent
from stream.settings import ArmSettings
from stream.settings.guardrail import Guardrail
from tests.stream.experiment.shown import SLOTS, Shown, lived, oracle, told, without_full, written

SALT = "live-1"
EXPERIMENT = Experiment(name="live", arms=(ArmSettings(name="a"), ArmSettings(name="b", preset="din-50")), alpha=0.1)


def shown() -> list[Shown]:
    assignment = Assignment(EXPERIMENT.shares, salt=SALT)
    impressions = without_full(lived(3000))
    for each in impressions:
        each.user += "x" * (int(each.user[1:]) % 5)
        each.arm = assignment.arm(each.user)
    return impressions


def answers(impressions: list[Shown]) -> ServingCosts:
    said = ServingCosts()
    for number, each in enumerate(impressions):
        spent = Spent(wait=number % 50, state=0.0, score=1.0, cpu=2.0)
        said.add(Score(each.request, each.user, each.ts, each.arm, 1, 1, ["x"], [0.5], [0], 1, 0, spent))
    return said


def report(directory: Path, ledger: Ledger, *, found: ReadSummary | None = None, salt: str = SALT) -> dict[str, Any]:
    made = live_report(EXPERIMENT, ledger, answers(shown()), found or ReadSummary(), salt=salt, settings={})
    write_experiment(directory, *made)
    read: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return read


def states(read: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in read["checks"]}


@pytest.mark.long
def test_its_numbers_are_those_of_the_truth(tmp_path: Path) -> None:
    impressions = shown()
    read = report(tmp_path, told(Ledger(), written(impressions)))
    truth = oracle(impressions)
    assert read["seconds"] == (impressions[-1].ts - impressions[0].ts) / 1000
    assert read["impressions"] == len(impressions)
    for arm, users in truth.items():
        said = read["arms"][arm]
        assert said["users"] == read["verdict"]["users"][arm] == len(users)
        assert said["shown"] == sum(items for items, _ in users.values())
        assert said["clicks"] == sum(clicks for _, clicks in users.values())
        assert said["ctr"] == pytest.approx(said["clicks"] / said["shown"])
        assert said["timed"] == said["impressions"] == said["shown"] / SLOTS
        assert said["cpu_s"] == 2.0
        assert said["latency_ms"]["p50"] == pytest.approx(25, abs=2)
        assert said["regret"] is said["ctr_best"] is None
        assert sum(1 for _ in read["over_time"]["ctr"][arm]) == len(read["over_time"]["edges"]) - 1
    assert read["samples_trained"] is None
    assert (states(read)["assigned"], states(read)["complete"]) == ("fine", "fine")


@pytest.mark.long
def test_another_salt_other_arms_and_missing_records_are_told(tmp_path: Path) -> None:
    impressions = shown()
    for each in impressions[:40]:
        each.arm = "old"
    ledger = told(Ledger(), written(impressions))
    read = report(
        tmp_path,
        ledger,
        found=ReadSummary(truncated_partitions=2, partitions=3, complete_from=86_400_000),
        salt="another",
    )
    assert {states(read)[name] for name in ("assigned", "others", "complete")} == {"note"}
    told_all = " ".join(check["answer"] for check in read["checks"])
    assert "old 40 impressions" in told_all
    assert "from 2 of 3 partitions" in told_all
    assert "From 1970-01-02 00:00:00 UTC on everything is there" in told_all
    assert read["arms"].keys() == {"a", "b"}
    read = report(tmp_path, ledger, found=ReadSummary(partitions=3, missing=1234))
    assert states(read)["complete"] == "note"
    assert any("Kafka removed 1,234 records while they were read" in check["answer"] for check in read["checks"])


@pytest.mark.long
def test_a_winner_that_breaks_a_guardrail_is_said_to() -> None:
    slow, quick = (Guardrail(metric="latency_p99_ms", at_most=limit) for limit in (5, 500))
    experiment = msgspec.structs.replace(EXPERIMENT, guardrails=(slow, quick))
    impressions = [
        Shown(f"r{number}", f"u{number % 400}", "ab"[number % 2], 1000 * number, [0] if number % 2 == 0 else [],
              partition=0)
        for number in range(12_000)
    ]  # fmt: skip
    for number, each in enumerate(impressions):
        each.clicked = [0] if number % (3 if each.arm == "a" else 7) == 0 else []
    ledger, said = told(Ledger(), written(impressions)), answers(impressions)
    counts = GuardrailCounts(experiment.guardrails, said, within=ledger.within, arm_of=str, now=0)
    made, _ = live_report(experiment, ledger, said, ReadSummary(), salt=SALT, settings={}, guardrails=counts)
    assert [(each.arm, each.state) for each in made.guardrails] == [
        ("a", "breaks"), ("b", "breaks"), ("a", "holds"), ("b", "holds")
    ]  # fmt: skip
    line = headline(made)
    assert line.startswith("a wins: ")
    assert ", but breaks 1 of its guardrails: share of answers slower than 5 ms " in line
    (other,) = broken_guardrail_lines(made)
    assert other.startswith("b breaks: share of answers slower than 5 ms ")
    page = render_page(experiment_page(made, {}))
    assert "What must not get worse" in page
    assert "a: breaks" in page
    held = msgspec.structs.replace(made, guardrails=made.guardrails[2:])
    assert headline(held).endswith("It keeps all of its 1 guardrails")
    unsure = msgspec.structs.replace(held, guardrails=[msgspec.structs.replace(held.guardrails[0], state="undecided")])
    assert headline(unsure).endswith("Of 1 guardrails none is broken, and 1 cannot be told yet")


@pytest.mark.long
def test_users_whom_a_ramp_has_moved_are_told() -> None:
    ledger = told(Ledger(), written(shown()))
    before = Assignment({"a": 1, "b": 0.1}, salt=SALT)
    made, _ = live_report(
        EXPERIMENT, ledger, answers(shown()), ReadSummary(), salt=SALT, settings={}, before_step=before
    )
    (check,) = [check for check in made.checks if check.name == "ramp"]
    now = Assignment(EXPERIMENT.shares, salt=SALT)
    users = {each.user for each in shown()}
    moved = sum(before.arm(user) != now.arm(user) for user in users)
    assert check.state == "note"
    assert f"Yes: {moved} of {len(users)} users" in check.answer
    made, _ = live_report(EXPERIMENT, ledger, answers(shown()), ReadSummary(), salt=SALT, settings={}, before_step=now)
    assert [check.state for check in made.checks if check.name == "ramp"] == ["fine"]


@pytest.mark.long
def test_nothing_at_all_is_a_report_as_well(tmp_path: Path) -> None:
    read = report(tmp_path, Ledger())
    assert (read["began"], read["impressions"], read["verdict"]["winner"]) == ("", 0, None)
    assert states(read)["assigned"] == "unknown"
