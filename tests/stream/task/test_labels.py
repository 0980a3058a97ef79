"""Labels of what was shown: clicks, closed windows, repeats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from state.behavior import category_key, item_key
from stream.schema.events import RequestKey
from tests.stream.task.support import (
    IDLE_S,
    LATER,
    T0,
    USER,
    USERS,
    Bench,
    Log,
    beginning,
    behavior,
    click,
    impression,
    keys,
    labels_in,
    mixing,
)


def test_shown_slots_become_negatives_and_a_click_proves_any_candidate(bench: Bench) -> None:
    log = Log(impression(size=5, slots=2))
    bench.turn(*log.records)
    assert (bench.task.open_requests, bench.samples) == (1, [])
    bench.turn(log.write(click("c0", 700), timestamp=T0 + 777))
    [positive] = bench.outcomes
    assert (positive.items, positive.positions, positive.labels) == (["c0"], [4], [1])
    bench.turn(log.write(click("c4", 800)))
    bench.turn(log.write(behavior("x", LATER - 1, user=USERS[1])))
    assert len(bench.outcomes) == 2, "the window is open still"
    bench.turn(log.write(behavior("x", LATER, user=USERS[1])))
    negative = bench.outcomes[-1]
    assert (negative.items, negative.positions, negative.labels) == (["c3"], [1], [0])
    assert [sample.clicked_at for sample in bench.samples] == [T0 + 777, T0 + 800, 0]
    assert bench.task.open_requests == 0
    assert bench.task.counts["samples"] == 3


def test_a_sample_and_its_outcome_say_the_same(bench: Bench) -> None:
    log = Log(behavior("a", 0), impression(ts=1, size=3, slots=3))
    bench.turn(*log.records)
    bench.turn(log.write(behavior("x", 1 + LATER)))
    [sample], [outcome] = bench.samples, bench.outcomes
    for name in ("request_id", "user", "arm", "ts", "epoch", "version"):
        assert getattr(sample, name) == getattr(outcome, name)
    assert (sample.request_id, sample.user, sample.arm, sample.ts) == ("r", USER, "reversing", T0 + 1)
    assert (sample.epoch, sample.version) == (1, 1)
    assert np.frombuffer(sample.items, "<u8").tolist() == keys(*outcome.items) == keys("c0", "c1", "c2")
    assert np.frombuffer(sample.categories, "<u4").tolist() == [0, category_key("food"), category_key("food")]
    assert np.frombuffer(sample.positions, "<u2").tolist() == outcome.positions == [2, 1, 0]
    assert outcome.probabilities == pytest.approx([1 / 5, 2 / 5, 3 / 5])
    assert np.frombuffer(sample.labels, "<u1").tolist() == outcome.labels == [0, 0, 0]


def test_labels_that_come_together_travel_together_and_others_alone(bench: Bench) -> None:
    log = Log(impression(size=5, slots=5))
    bench.turn(*log.records)
    bench.turn(log.write(click("c1", 100), timestamp=T0 + 150), log.write(click("c3", 110), timestamp=T0 + 120))
    bench.turn(log.write(click("c0", 200)))
    bench.turn(log.write(behavior("x", LATER)))
    assert [(outcome.items, outcome.labels) for outcome in bench.outcomes] == [
        (["c1", "c3"], [1, 1]),
        (["c0"], [1]),
        (["c2", "c4"], [0, 0]),
    ]
    assert [sample.clicked_at for sample in bench.samples] == [T0 + 150, T0 + 200, 0]


def test_positives_and_negatives_of_one_turn_are_two_samples(bench: Bench) -> None:
    bench.turn(*Log(impression(slots=4), click("c1", 10), click("c2", 20), behavior("x", LATER)).records)
    assert [(outcome.items, outcome.labels) for outcome in bench.outcomes] == [
        (["c1", "c2"], [1, 1]),
        (["c0", "c3"], [0, 0]),
    ]


def test_a_click_that_is_read_before_its_impression_waits_for_it(bench: Bench) -> None:
    log = Log()
    bench.turn(log.write(click("c0", 10)))
    assert not bench.samples
    bench.turn(log.write(impression()))
    assert [outcome.items for outcome in bench.outcomes] == [["c0"]]
    assert not bench.refused


def test_a_click_without_an_impression_is_refused_byte_for_byte_when_its_window_is_over(bench: Bench) -> None:
    log = Log()
    orphan = log.write(click("c0", 0, "never shown"))
    bench.turn(orphan)
    assert not bench.refused
    bench.turn(log.write(behavior("x", LATER)))
    [refused] = bench.refused
    assert refused.record == orphan
    assert "no open impression with request_id 'never shown' of user" in refused.reason


def test_a_repeated_request_is_answered_again_and_labelled_once(bench: Bench) -> None:
    log = Log(impression(ts=0))
    bench.turn(*log.records)
    bench.version = 9
    [again] = bench.turn(log.write(impression(ts=50)))
    assert again.impression.request_id == "r"
    assert bench.task.open_requests == 1
    bench.turn(log.write(click("c3", 60)), log.write(behavior("x", 50 + LATER)))
    labels = labels_in(bench.samples)
    assert sorted(labels) == sorted((RequestKey(USER, "r"), item_key(item)) for item in ("c2", "c3"))
    assert {sample.version for sample in bench.samples} == {1}, "what was shown first is learned from"
    assert {sample.ts for sample in bench.samples} == {T0}


EARLY: dict[str, Any] = {"labels": "early", "label_wait_s": 0.2}


def said(bench: Bench) -> tuple[list[tuple[list[int], list[int]]], list[tuple[list[str], list[int]]]]:
    """Return what is to be learned, (item keys, labels) of each sample, and what is to be counted."""
    samples = [
        (np.frombuffer(each.items, "<u8").tolist(), np.frombuffer(each.labels, "u1").tolist()) for each in bench.samples
    ]
    return samples, [(each.items, each.labels) for each in bench.outcomes]


def test_early_labels_are_samples_after_the_wait_and_outcomes_when_they_are_final(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "state", **EARLY)
    log = Log(behavior("a", 0), impression(ts=1, size=4, slots=3))
    bench.turn(*log.records)
    bench.turn(log.write(click("c1", 100)), log.write(behavior("x", 201)))
    assert said(bench) == ([(keys("c1"), [1])], [(["c1"], [1])])
    bench.turn(log.write(behavior("x", 202)))
    assert said(bench)[0][1:] == [(keys("c2", "c3"), [0, 0])]
    bench.turn(log.write(click("c3", 500)))
    bench.turn(log.write(behavior("x", 1 + LATER)))
    samples, outcomes = said(bench)
    assert samples[1:] == [(keys("c2", "c3"), [0, 0]), (keys("c3"), [1])]
    assert outcomes == [(["c1"], [1]), (["c3"], [1]), (["c2"], [0])]
    assert len({sample.sequence for sample in bench.samples}) == 1, "all show what was scored"
    assert bench.task.counts["samples"] == 4
    bench.close()


def test_early_labels_of_a_quiet_partition_wait_for_the_idle_time_and_clicks_do_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "state", **EARLY)
    log = Log(impression(size=3, slots=3))
    bench.turn(*log.records, log.write(click("c0", 10)), now=0.0)
    assert [labels for _, labels in said(bench)[0]] == [[1]]
    assert not bench.task.waits_for_event_time(IDLE_S)
    assert bench.task.waits_for_event_time(IDLE_S + 0.1)
    bench.task.advance_idle_time(IDLE_S + 0.1)
    bench.settle()
    assert [labels for _, labels in said(bench)[0]] == [[1], [0, 0]]
    bench.close()


def test_what_was_learned_early_and_not_committed_is_sampled_again_byte_for_byte(tmp_path: Path) -> None:
    log = Log(impression(size=3, slots=3), behavior("x", 300))
    lives = [Bench(tmp_path / "state", **EARLY)]
    lives[0].turn(*log.records)
    lives[0].close()
    lives.append(Bench(tmp_path / "state", beginning(answers=lives[0].given), **EARLY))
    lives[1].turn(*log.records)
    assert lives[0].samples == lives[1].samples != []
    lives[1].task.commit()
    lives[1].close()
    lives.append(Bench(tmp_path / "state", **EARLY))
    lives[2].turn(log.write(click("c0", 400)), log.write(behavior("x", LATER)))
    assert said(lives[2]) == ([(keys("c0"), [1])], [(["c0"], [1]), (["c1", "c2"], [0, 0])])
    lives[2].close()


def test_of_an_interleaved_request_each_team_learns_early_what_it_placed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "state", answering=mixing, **EARLY)
    log = Log(impression(size=4, slots=4), behavior("x", 300))
    bench.turn(*log.records)
    assert len(bench.samples) == 2
    assert {sample.arm for sample in bench.samples} == {"reversing", "forward"}
    assert not bench.outcomes
    bench.turn(log.write(behavior("x", LATER)))
    assert len(bench.samples) == 2
    assert {(outcome.arm, outcome.team) for outcome in bench.outcomes} == {("mixed", "reversing"), ("mixed", "forward")}
    bench.close()
