"""Interleaved requests in one partition's work: who placed an item is known to its label, before a crash and after."""

from contextlib import closing
from pathlib import Path

import numpy as np

from state.behavior import item_key
from stream.schema.events import encode_packed
from tests.stream.task.support import LATER, Bench, Log, beginning, behavior, click, impression, mixing


def placed(bench: Bench) -> dict[str, str]:
    """Item → the team that placed it, as the one score says."""
    [score] = bench.scores.values()
    return {score.items[index]: team.arm for team in score.teams for index in team.members}


def test_each_item_is_labelled_under_the_arm_that_placed_it(path: Path) -> None:
    with closing(Bench(path, answering=mixing)) as bench:
        log = Log(behavior("a", -5), impression(size=8, slots=6))
        bench.turn(*log.records)
        teams = placed(bench)
        [score] = bench.scores.values()
        shown = [score.items[index] for index in score.order[:6]]
        bench.turn(log.write(click(shown[0], 10)), log.write(click(shown[1], 10)), log.write(behavior("x", LATER)))
        found = {}
        for sample, outcome in zip(bench.samples, bench.outcomes, strict=True):
            assert np.frombuffer(sample.items, "<u8").tolist() == [item_key(item) for item in outcome.items]
            assert (outcome.arm, outcome.team) == ("mixed", sample.arm), "the user's arm, and whose items these are"
            assert (outcome.epoch, outcome.version) == (sample.epoch, sample.version) == (1, 1)
            for item, position, probability, label in zip(
                outcome.items, outcome.positions, outcome.probabilities, outcome.labels, strict=True
            ):
                assert item not in found, "labelled twice"
                index = score.items.index(item)
                assert (teams[item], score.probabilities[index]) == (outcome.team, probability)
                assert score.order[position] == index
                found[item] = label
        assert found == {item: int(item in shown[:2]) for item in shown}
        assert {outcome.team for outcome in bench.outcomes} == {"reversing", "forward"}


def test_teams_outlive_a_crash_before_the_commit_and_one_after_it(path: Path) -> None:
    log = Log(behavior("a", -5), impression(size=6, slots=4))
    rest = [log.write(click("c5", 10)), log.write(click("c0", 20)), log.write(behavior("x", LATER))]
    lives = []
    with closing(Bench(path, answering=mixing)) as bench:
        bench.turn(*log.records[:2])
        bench.turn(*rest)
        lives.append([encode_packed(each) for each in (*bench.samples, *bench.outcomes)])
        given = bench.given
    # Nothing was committed, but the answer is in Kafka; the model is a newer one by now.
    start = beginning(answers=given, scores_end=1, impressions_end=1)
    with closing(Bench(path, start, version=9, answering=mixing)) as bench:
        assert not bench.turn(*log.records[:2])
        bench.task.commit()
    # The open request is in the state now.
    with closing(Bench(path, version=9, answering=mixing)) as bench:
        bench.turn(*rest)
        lives.append([encode_packed(each) for each in (*bench.samples, *bench.outcomes)])
    assert lives[0] == lives[1]
    assert len(lives[0]) >= 6
