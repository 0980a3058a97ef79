"""What an interleaved arm says in reports, live and of a run, is what a plain count of its requests says."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.experiment.assignment import Assignment
from stream.experiment.interleaving import preference
from stream.experiment.ledger import Ledger, ReadSummary
from stream.experiment.plan import Experiment
from stream.experiment.serving_cost import ServingCosts
from stream.report.live_report import live_report
from stream.report.pages.experiment import experiment_page
from stream.report.pages.page import render_page
from stream.report.schema import ArmTrace, ExperimentReport
from stream.report.writer import write_experiment
from stream.schema.events import Outcome, Score, Spent, Team
from stream.settings import ArmSettings
from stream.simulation.report import simulation_report
from stream.simulation.traffic import TrafficTotals, clicked_by_team

SALT = "mixed-1"
SLOTS = 4
A, B = ArmSettings(name="a"), ArmSettings(name="b", preset="din-50")
MIXED = ArmSettings(name="mixed", interleave=("b", "a"))
EXPERIMENT = Experiment(name="mixed", arms=(A, B, MIXED), alpha=0.1)
HEADING = "Which of two rankings do users prefer in one list?"


@dataclass
class Seen:
    """A request of the truth: who was asked, who placed each item, and which places were clicked."""

    request: str
    user: int
    arm: str
    ts: int
    teams: list[str]
    clicked: list[int]

    def outcomes(self) -> list[Outcome]:
        """Each click by itself, then the rest, apart by team."""
        parts = [([place], 1) for place in self.clicked]
        for team in sorted(set(self.teams)):
            parts.append(([n for n in range(SLOTS) if self.teams[n] == team and n not in self.clicked], 0))
        return [
            Outcome(
                self.request, f"u{self.user}", self.arm, self.ts, 1, 1, [f"i{place}" for place in places], places,
                [0.2] * len(places), [label] * len(places), self.teams[places[0]],
            )
            for places, label in parts
            if places
        ]  # fmt: skip

    def score(self) -> Score:
        places = range(SLOTS)
        teams = [Team(team, 1, 1, [n for n in places if self.teams[n] == team]) for team in MIXED.interleave]
        return Score(
            self.request, f"u{self.user}", self.ts, self.arm, 1, 1, [f"i{place}" for place in places],
            [0.2] * SLOTS, [*places], SLOTS, 0, Spent(0, 0, 0), teams=teams if self.arm == "mixed" else [],
        )  # fmt: skip


def lived(*, better: float = 0.15, count: int = 6000) -> list[Seen]:
    """Requests of 400 users, to whom what `a` placed is better by so much."""
    rng, assignment, seen = random.Random(3), Assignment(EXPERIMENT.shares, salt=SALT), []
    for number in range(count):
        user = rng.randrange(400)
        arm = assignment.arm(f"u{user}")
        placed = rng.sample(["a", "b"] * (SLOTS // 2), SLOTS) if arm == "mixed" else [arm] * SLOTS
        clicked = [n for n in range(SLOTS - 1) if rng.random() < 0.15 + better * (placed[n] == "a")]
        seen.append(Seen(f"r{number}", user, arm, 1000 + number, placed if arm == "mixed" else [""] * SLOTS, clicked))
    return seen


def live(
    seen: list[Seen],
    question: Experiment = EXPERIMENT,
    *,
    repeats: int = 0,
    since: int | None = None,
    until: int | None = None,
) -> ExperimentReport:
    ledger = Ledger(since=since, until=until)
    records = [outcome for each in seen for outcome in each.outcomes()]
    for outcome in [*records[:repeats], *records]:
        ledger.add(0, outcome)
    return live_report(question, ledger, ServingCosts(), ReadSummary(), salt=SALT, settings={})[0]


def simulated(seen: list[Seen]) -> ExperimentReport:
    totals = TrafficTotals(impressions=len(seen), answered=len(seen))
    for each in seen:
        totals.interleaving_votes.click(
            each.arm, f"u{each.user}", each.request, clicked_by_team(each.score(), each.clicked)
        )
        totals.versions[each.arm] = 1, 1
        trace = totals.arms.setdefault(each.arm, ArmTrace())
        for column, value in (("at", each.ts / 1000), ("users", each.user), ("shown", SLOTS)):
            getattr(trace, column).append(value)
        trace.clicks.append(len(each.clicked))
        for column in ("losses", "floor", "best", "random", "expected", "latency", "cpu"):
            getattr(trace, column).append(1.0)
    return simulation_report(EXPERIMENT, totals, [], began=1e9, seconds=6.0, settings={})[0]


def counted(seen: list[Seen]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Whose request it was, and 1 where `a` has won it, −1 where `b` has."""
    users, votes = [], []
    for each in seen:
        if each.arm == "mixed":
            by = [each.teams[place] for place in each.clicked]
            users.append(each.user)
            votes.append((by.count("a") > by.count("b")) - (by.count("b") > by.count("a")))
    return np.array(users), np.array(votes)


@pytest.mark.long
def test_it_is_what_a_plain_count_of_the_truth_says_whatever_is_repeated() -> None:
    seen = lived()
    users, votes = counted(seen)
    expected = preference(users, votes, alpha=EXPERIMENT.alpha)
    for repeats in (0, 5000):
        [found] = live(seen, repeats=repeats).interleaving
        assert (found.arm, found.first, found.second, found.winner) == ("mixed", "a", "b", "a")
        assert found.requests == np.count_nonzero(votes)
        assert found.users == len(set(users[votes != 0].tolist()))
        assert found.share.value == pytest.approx(np.sum(votes > 0) / np.count_nonzero(votes))
        assert found.share == pytest.approx(expected.share)
        assert found.p == pytest.approx(expected.p)
        assert found.agreement is not None
        assert found.agreement.kind == "agree"


def test_every_user_of_the_arm_is_looked_for_in_the_file() -> None:
    seen = [each for each in lived(count=600) if each.arm == "mixed"]
    [assigned] = [check for check in live(seen).checks if check.name == "assigned"]
    assert assigned.state == "fine"
    for each in seen:
        each.user += 1
    [assigned] = [check for check in live(seen).checks if check.name == "assigned"]
    assert assigned.state == "note"


@pytest.mark.long
def test_only_the_requests_that_the_report_is_on_have_a_vote() -> None:
    seen = lived()
    [found] = live(seen, since=2000, until=5000).interleaving
    _, votes = counted([each for each in seen if 2000 <= each.ts < 5000])
    assert found.requests == np.count_nonzero(votes)


@pytest.mark.long
def test_the_report_of_a_run_says_the_same() -> None:
    seen = lived()
    assert simulated(seen).interleaving == live(seen).interleaving


@pytest.mark.long
def test_the_page_has_a_section_of_it_and_the_file_a_list(tmp_path: Path) -> None:
    report = simulated(lived())
    page = render_page(experiment_page(report, {}))
    [found] = report.interleaving
    assert HEADING in page
    assert found.sentence in page
    assert "Interleaving and A/B both prefer a." in page
    assert f"<td>{found.users:,}</td>" in page, "users seen"
    made = live_report(EXPERIMENT, Ledger(), ServingCosts(), ReadSummary(), salt=SALT, settings={})
    write_experiment(tmp_path, *made)
    [nothing] = json.loads((tmp_path / "report.json").read_text())["interleaving"]
    assert (nothing["winner"], nothing["requests"], nothing["share"]) == (None, 0, [None, None, None])
    assert nothing["agreement"]["kind"] == "open"


def test_an_experiment_that_interleaves_nothing_says_nothing_of_it() -> None:
    plain = [each for each in lived(count=600) if each.arm != "mixed"]
    report = live(plain, Experiment(name="plain", arms=(A, B)))
    assert report.interleaving == []
    assert HEADING not in render_page(experiment_page(report, {}))


def test_a_click_is_its_teams_and_nobodys_where_nothing_was_interleaved() -> None:
    mixed = Seen("r", 1, "mixed", 1, ["a", "b", "b", "a"], []).score()
    assert clicked_by_team(mixed, [0, 1, 3]) == {"b": ["i1"], "a": ["i0", "i3"]}
    assert clicked_by_team(Seen("r", 1, "a", 1, [""] * SLOTS, []).score(), [0, 1]) == {}
