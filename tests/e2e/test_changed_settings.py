"""Settings that change between two lives, on a running system: what is told names arm, path, setting and remedy."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from model.learner import Learner
from model.serialization.parts import split
from stream.local.ports import free_port
from stream.schema.topics import Topics
from tests.e2e.harness import LENGTH, Harness, wait_for
from tests.e2e.raw import RawWriter
from tests.e2e.served import health, served


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path)


def arms(harness: Harness, **changes: Any) -> str:
    """Return the flag that sets the harness's arms with changes to the first of them."""
    first, *others = (json.loads(msgspec.json.encode(arm)) for arm in harness.settings.arms)
    return f"arms={_toml([first | changes, *others])}"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def all_visit(harness: Harness) -> None:
    """Let every user visit once, so that each arm has answered somebody."""
    for user in harness.users:
        harness.ask(user)
    harness.await_answers()


def test_a_trainer_says_what_of_its_checkpoint_no_longer_fits(harness: Harness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker")
        harness.traffic(20)
        harness.close_windows()
        wait_for(lambda: harness.trained() >= len(harness.shown()), "all to be learned", processes=harness.processes)
        harness.end("trainer")
        directory = harness.settings.trainer.directory
        begins = rf"samstream trainer: arm 'sam' cannot go on from checkpoint {directory}/\d{{8}}: "
        ends = (
            r"\. Set preset, model and optim\.max_rows of arm 'sam', and seed, as they were; or give the changed model"
            rf" a new arm name; or move {directory} away to learn all arms again from what Kafka retains\."
        )
        refused = (
            (
                "model",
                arms(harness, preset=f"din-{LENGTH}"),
                r"it is of model .*: the network or its sizes were changed",
            ),
            ("seed", "seed=5", r"it is of model .*: the seed was 0 and is 5"),
            (
                "rows",
                arms(harness, optim={"max_rows": 3}),
                r"it has \d+ rows in a table, and max_rows is 3: allow \d+ or more",
            ),
        )
        for what, flag, words in refused:
            harness.processes.start(what, "trainer", "--set", flag)
            assert re.fullmatch(begins + words + ends, last := harness.last_words(what)), last
        trained = harness.trained()
        harness.processes.start("again", "trainer")
        log = harness.processes.log("again")
        wait_for(lambda: "resumed=True" in log.read_text(), "the trainer to go on", processes=harness.processes)
        assert harness.trained() == trained


def test_samples_and_updates_of_an_arm_that_was_renamed_are_counted_apart(harness: Harness) -> None:
    port = free_port()
    with harness:
        harness.processes.start("trainer", "trainer", "--set", f"trainer.metrics=127.0.0.1:{port}")
        harness.start_worker("worker")
        all_visit(harness)
        harness.end("worker")
        harness.start_worker("renamed", "--set", arms(harness, name="sam-2"), "--set", "worker.model_wait_s=1")
        log = harness.processes.log("renamed")
        wait_for(lambda: "updates_of_unknown_arm arm=sam " in log.read_text(), "the worker to say so")
        all_visit(harness)
        harness.close_windows()
        of_arm = Counter(harness.answers[request].arm for request, _ in harness.shown())
        assert of_arm.keys() == {"sam", "sam-2", "counts"}

        def counted() -> float:
            return served(port).get(("samstream_samples_of_unknown_arms_total", "sam-2"), 0.0)

        wait_for(lambda: counted() >= of_arm["sam-2"], "them to be counted", processes=harness.processes)
        known = of_arm["sam"] + of_arm["counts"]
        wait_for(lambda: harness.trained() >= known, "the rest to be learned", processes=harness.processes)
        harness.processes.stop()
        assert harness.trained() == known, "what nobody learned is not counted as learned"
        said = harness.processes.log("trainer").read_text()
        assert said.count("samples_of_unknown_arm arm=sam-2 arms=counts,sam remedy=") == 1


def test_updates_that_cannot_be_served_are_said_by_health_and_the_last_good_model_serves_on(
    harness: Harness, kafka: dict[str, str]
) -> None:
    port = free_port()

    def notes() -> list[str]:
        status, said = health(port)
        assert status == 200
        return list(said["notes"])

    arm = harness.settings.arms[0]
    learner = Learner(arm.spec(), arm.optim, seed=harness.settings.seed)
    with harness, RawWriter(kafka) as raw:

        def publish(epoch: int, scale: float) -> None:
            learner.begin_epoch(epoch)
            base = learner.base("sam")
            tensors = {
                name: (tensor * scale).astype(tensor.dtype) if tensor.dtype == np.float32 else tensor
                for name, tensor in base.tensors.items()
            }
            for part in split(dataclasses.replace(base, tensors=tensors), 800_000):
                raw.write(harness.topics.model_updates, part, key=f"sam/{epoch}".encode())

        publish(1, 1.0)
        harness.start_worker("worker", "--set", f"worker.metrics=127.0.0.1:{port}", "--set", "worker.model_wait_s=1")
        log = harness.processes.log("worker")
        wait_for(lambda: " base arm=sam epoch=1 " in log.read_text(), "the model", processes=harness.processes)
        harness.wander(50)
        harness.traffic(10)
        assert notes() == []
        publish(2, 1e30)
        wait_for(lambda: bool(notes()), "the refusal to be said", processes=harness.processes)
        [note] = notes()
        assert re.match(r"arm sam: epoch 1, version 0 serves on, its updates are refused \(non-finite: ", note), note
        harness.traffic(10)
        assert {(score.epoch, score.version) for score in harness.answers.values() if score.arm == "sam"} == {(1, 0)}
        publish(3, 1.0)
        wait_for(lambda: not notes(), "a good update to be served", processes=harness.processes)
