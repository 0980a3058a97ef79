"""The monitor judges an experiment's guardrails as the report does, and says on its page what breaks them."""

import json
import random
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from stream.experiment.assignment import Assignment
from stream.kafka.eraser import erase
from stream.kafka.producer import ReliableProducer
from stream.local.ports import free_port
from stream.local.system import Processes
from stream.schema.events import Behavior, Outcome, Score, Spent, encode_json, encode_packed
from stream.schema.topics import Topics
from stream.settings import Settings, convert
from tests.e2e.browser import opened
from tests.e2e.harness import wait_for

SALT = "guarded-1"
GUARDRAILS = [
    {"metric": "latency_p99_ms", "at_most": 50},
    {"metric": "calibration", "at_least": 0.5},
    {"metric": "action", "action": "hide", "within_s": 30, "at_most": 0.05},
]
MINUTE_MS = 60_000
IMPRESSIONS = 12_000


def settings_for(kafka: dict[str, str], prefix: str, directory: Path) -> Settings:
    return convert(
        {
            "kafka": kafka,
            "topics": {"prefix": prefix},
            "salt": SALT,
            "arms": [{"name": "quick"}, {"name": "slow"}],
            "experiment": {"name": "guarded", "guardrails": GUARDRAILS},
            "monitor": {"directory": str(directory / "tables"), "web": f"127.0.0.1:{free_port()}"},
        }
    )


def write_two_hours(kafka: dict[str, str], topics: Topics) -> None:
    """`slow` has more clicks, each 20th of its answers is slow, and each 7th of its impressions is hidden."""
    of, rng, sender = Assignment({"quick": 1, "slow": 1}, salt=SALT).arm, random.Random(0), ReliableProducer(kafka)
    start = round(1000 * time.time()) - 120 * MINUTE_MS
    for number in range(IMPRESSIONS):
        user, ts = f"u{rng.randrange(600)}", start + number * 119 * MINUTE_MS // IMPRESSIONS
        arm, key = of(user), user.encode()
        slow = arm == "slow"
        spent = Spent(wait=100.0 if slow and rng.random() < 0.05 else 5.0, state=0.0, score=1.0)
        given = Score(f"r{number}", user, ts, arm, 1, 1, ["x", "y"], [0.3, 0.2], [0, 1], 2, 0, spent)
        sender.send(topics.scores, encode_json(given), key=key)
        clicked = [rng.random() < (0.4 if slow else 0.2) for _ in range(2)]
        for label in (1, 0):
            if places := [place for place in range(2) if clicked[place] == label]:
                made = Outcome(
                    f"r{number}", user, arm, ts, 1, 1, ["xy"[place] for place in places], places,
                    [0.3] * len(places), [label] * len(places),
                )  # fmt: skip
                sender.send(topics.outcomes, encode_packed(made), key=key)
        if slow and rng.random() < 1 / 7:
            sender.send(topics.behaviors, encode_json(Behavior(user, "x", ts + 1000, action="hide")), key=key)
    sender.flush()


@pytest.mark.slow
def test_what_breaks_a_guardrail_is_said_beside_the_verdict(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    write_two_hours(kafka, topics)
    settings = settings_for(kafka, topic_prefix, tmp_path)
    address = f"http://{settings.monitor.web}"

    def state() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{address}/api/state", timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return {}

    with Processes(tmp_path, settings) as processes:
        processes.start("monitor", "monitor")
        wait_for(lambda: bool(state().get("guardrails")), "guardrails", processes=processes)
        found: dict[str, Any] = {}

        def judged() -> bool:
            found.update(state())  # nothing, where it does not answer in time
            return bool((found.get("verdict") or {}).get("winner") == "slow")

        wait_for(judged, "a verdict", processes=processes)
        states = {(each["guardrail"].split()[0], each["arm"]): each["state"] for each in found["guardrails"]}
        assert states == {
            ("share", "quick"): "holds",
            ("share", "slow"): "breaks",
            ("predicted", "quick"): "holds",
            ("predicted", "slow"): "holds",
            ("hide", "quick"): "holds",
            ("hide", "slow"): "breaks",
        }
        broken = "share of answers slower than 50 ms; hide within 30 s, for each impression"
        assert found["guardrail_words"] == f", but breaks 2 of its guardrails: {broken}"

        with opened(address, tmp_path / "profile") as browser:
            wait_for(lambda: browser.evaluate("document.querySelectorAll('#guardrails tr').length") == 6, "the page")
            assert f", but breaks 2 of its guardrails: {broken}." in browser.evaluate("document.body.innerText")
            assert browser.evaluate("document.querySelectorAll('#guardrails .breaks').length") == 2
            assert not browser.evaluate("document.getElementById('guardrails-card').hidden")

        # Whoever is erased is taken out of what is kept in memory: all is read again, and says the same.
        erase(kafka, topics, ["u1"])
        log = processes.log("monitor")
        wait_for(lambda: "guardrails_again" in log.read_text(), "what Kafka has to be read again", processes=processes)
