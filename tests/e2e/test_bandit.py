"""A bandit on a real broker: it learns from those who explore, workers divide alike, and its death changes nothing."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from stream.experiment.assignment import Assignment
from stream.experiment.shares_in_force import Explorers, SharesInForce
from stream.kafka.producer import ReliableProducer
from stream.schema.events import Candidate, Outcome, RequestKey, Score, decode_outcome, encode_packed
from stream.schema.shares import decode_shares
from stream.schema.topics import Topics
from tests.e2e.harness import LENGTH, Harness, wait_for

SALT = "salt-1"
SECTIONS: dict[str, Any] = {
    "bandit": {"explore": 0.5, "floor": 0.1, "every_s": 3600, "notice_s": 1.0},
    "worker": {
        "attribution_window_s": 1,
        "allowed_lateness_s": 0,
        "idle_timeout_s": 0.5,
        "max_future_s": 0.5,
        "model_wait_s": 0,
    },
    "arms": [{"name": "good", "preset": f"counts-{LENGTH}"}, {"name": "bad", "preset": "random"}],
}
USERS = [f"user-{number}" for number in range(400)]
CANDIDATES = [Candidate(f"item-{number}") for number in range(10)]


def outcomes_of_the_past(harness: Harness, kafka: dict[str, str], topics: Topics) -> None:
    """Those who explore click what `good` shows; all others what `bad` shows, which no share may follow from."""
    sender = ReliableProducer(kafka)
    of = Assignment({"good": 1, "bad": 1}, salt=SALT)
    explorers, now = Explorers(salt=SALT, share=0.5), round(1000 * time.time())
    for number, user in enumerate(USERS):
        arm = of.arm(user)
        clicks = 5 if (arm == "good") == (user in explorers) else 1
        for label, places in ((1, range(clicks)), (0, range(clicks, 10))):
            made = Outcome(
                f"r{number}", user, arm, now - 60_000, 1, 1, [f"i{place}" for place in places], list(places),
                [0.5] * len(places), [label] * len(places), propensity=0.5,
            )  # fmt: skip
            sender.send(topics.outcomes, encode_packed(made), key=user)
    sender.flush()


def test_shares_follow_the_explorers_and_hold_whoever_is_killed(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    with Harness(kafka, topics, topic_prefix, tmp_path, **SECTIONS, salt=SALT) as harness:
        told = SharesInForce(harness.settings)
        explorers, given = Explorers(salt=SALT, share=0.5), dict[RequestKey, Score]()

        def ask(users: list[str], ts: int | None = None) -> None:
            requests = [harness.client.impression(user, CANDIDATES, 3, ts=ts) for user in users]
            for request in requests:
                score = given[request] = harness.client.scores(request, 30.0)
                assert (score.arm, score.shares) == told.assign(score.user, score.ts)

        harness.start_worker("worker-1", instance="one")
        harness.start_worker("worker-2", instance="two")
        ask(USERS[:30])
        outcomes_of_the_past(harness, kafka, topics)
        harness.processes.start("bandit", "bandit")
        wait_for(lambda: bool(harness.read(topics.experiment_shares)), "shares", processes=harness.processes)
        (record,) = harness.records(topics.experiment_shares)
        step = decode_shares(record.value or b"")
        assert step.shares == pytest.approx({"good": 0.9, "bad": 0.1})
        rates = {arm: step.clicks[arm] / step.shown[arm] for arm in step.shares}
        assert rates == pytest.approx({"good": 0.5, "bad": 0.1}, abs=0.05)  # with the few that were asked until now
        assert told.add(step, record.timestamp)

        harness.kill("bandit")
        wait_for(lambda: 1000 * time.time() > step.begin, "the shares to begin")
        for name in ("worker-1", "worker-2"):
            log = harness.processes.log(name)
            wait_for(lambda log=log: bool(re.search(" shares(_late)? begin=", log.read_text())), f"{name} to have them")  # type: ignore[misc]
        ask(USERS[:40])
        others = [score for score in given.values() if score.user not in explorers and score.ts >= step.begin]
        assert sum(score.arm == "good" for score in others) / len(others) > 0.7
        harness.kill("worker-1")
        harness.start_worker("worker-3", instance="one")
        ask(USERS[:40])
        ask(USERS[:20], ts=step.begin - 1)  # by the shares of its own time, however late it comes

        harness.processes.start("bandit-2", "bandit")
        log = harness.processes.log("bandit-2")
        wait_for(lambda: "started " in log.read_text(), "another bandit", processes=harness.processes)
        assert "good:0.9000" in log.read_text()

        def counted() -> set[RequestKey]:
            return {each.request for each in map(decode_outcome, harness.read(topics.outcomes))}

        wait_for(lambda: given.keys() <= counted(), "all windows to close", processes=harness.processes)
        for outcome in map(decode_outcome, harness.read(topics.outcomes)):
            if score := given.get(outcome.request):
                assert outcome.propensity == score.shares[outcome.arm]
        assert len(harness.read(topics.experiment_shares)) == 1  # they hold for an hour
