"""Interleaved lists on a real broker: scores and outcomes say who placed what, the same before and after a kill -9."""

from collections import defaultdict
from pathlib import Path

from model.serialization.checkpoint import load_newest
from model.statistics.primary import STATISTICS
from stream.experiment.interleaving import seeded_coin
from stream.schema.events import RequestKey, Score, decode_outcome, decode_sample, decode_score
from stream.schema.topics import Topics
from tests.e2e.harness import LENGTH, Harness, wait_for

ARMS = [
    {"name": "counts", "preset": f"counts-{LENGTH}", "share": 0},
    {"name": "lot", "preset": "random", "share": 0},
    {"name": "popularity", "preset": "popularity", "share": 1},
    {"name": "mixed", "share": 2, "interleave": ["counts", "lot"]},
]


def test_teams_are_in_scores_and_outcomes_and_survive_a_killed_worker(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    with Harness(kafka, topics, topic_prefix, tmp_path, arms=ARMS) as harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker-1", instance="one")
        harness.wander(600)
        harness.traffic(40)
        for _ in range(20):
            harness.ask()
            harness.wander(3)
        harness.replace_worker("worker-1", "worker-2")

        def both_teams_have_learned() -> bool:
            harness.traffic(2)
            return {team.arm for score in harness.answers.values() for team in score.teams if team.version} == {
                "counts",
                "lot",
            }

        wait_for(both_teams_have_learned, "updates of both teams to be served", processes=harness.processes)
        harness.settle()

        told: dict[RequestKey, list[Score]] = defaultdict(list)
        for value in harness.read(topics.scores):
            told[(score := decode_score(value)).request].append(score)
        assert {score.arm for each in told.values() for score in each} == {"popularity", "mixed"}
        for repeats in told.values():
            assert all((one.order, one.teams) == (repeats[0].order, repeats[0].teams) for one in repeats)
            if repeats[0].arm == "mixed":
                check_draft(repeats[0])

        outcomes = [decode_outcome(value) for value in harness.read(topics.outcomes)]
        assert {(outcome.arm, outcome.team) for outcome in outcomes} == {
            ("popularity", ""),
            ("mixed", "counts"),
            ("mixed", "lot"),
        }
        for outcome in outcomes:
            score = told[outcome.request][0]
            whose = {score.items[index]: team for team in score.teams for index in team.members}
            if outcome.team:
                for item in outcome.items:
                    assert whose[item].arm == outcome.team
                    assert (whose[item].epoch, whose[item].version) == (outcome.epoch, outcome.version)
            else:
                assert not whose
        assert {decode_sample(value).arm for value in harness.read(topics.samples)} == {"popularity", "counts", "lot"}
        saved = load_newest(harness.directory / "checkpoints").checkpoint
        assert saved is not None
        assert saved.arms.keys() == {"counts", "lot", "popularity", STATISTICS}


def check_draft(score: Score) -> None:
    """See that the teams took turns as the request's coin says, and each by its own ranking."""
    first, second = score.teams
    coin, ahead = seeded_coin(score.request.text), 0
    for index in score.order:
        ours = index in first.members
        if ahead == 0:
            assert ours == coin()
        else:
            assert ours == (ahead < 0), "who is behind goes next"
        ahead += 1 if ours else -1
    for team in (first, second):
        placed = [score.probabilities[index] for index in score.order if index in team.members]
        assert placed == sorted(placed, reverse=True)
