"""Damaged updates on a running worker: it never serves one, and goes on taking those of the trainer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from model.example import Example
from model.learner import Learner
from model.scorer import Scorer
from model.serialization.parts import Part, split
from model.serialization.update import Tensors, Update, Version
from state.behavior import BEHAVIOR, item_key
from stream.schema.events import Score
from stream.schema.topics import Topics
from stream.settings import ArmSettings
from tests.e2e.harness import ITEMS, Harness, wait_for
from tests.e2e.raw import Headers, RawWriter

PUBLISHED = 5
"""Epoch of the updates that lie in the topic before the trainer starts: it must go on above it."""
POISON = 50.0
"""A parameter that makes every probability 0 or 1: whatever was served of it would be seen."""


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path)


@dataclass(frozen=True)
class Damaged:
    """Records of `model-updates`, and what the worker's log says of their refusal; nothing where none is complete."""

    what: str
    records: list[bytes | None]
    word: str = ""
    headers: Headers | None = None


def poisoned(tensors: Tensors) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {
        name: tensor if name.endswith("/keys") else np.full_like(tensor, POISON) for name, tensor in tensors.items()
    }


def whole(update: Update) -> list[bytes | None]:
    """Return an update as one record: the trainer's own records cannot come between its parts."""
    return [*split(update, 100_000_000)]


def parts_of(update: Update) -> list[bytes | None]:
    """Return the records of an update, several of them however small it is."""
    size = len(split(update, 100_000_000)[0])
    return [*split(update, 150 + size // 3)]


def damaged_updates(learner: Learner, arm: str, at: Version) -> Iterator[Damaged]:
    """Yield updates of an arm that serves `at`; each would be served by a worker that does not look closely."""
    following = Version(at.epoch + 1, 0)
    base = learner.base(arm)
    good = replace(base, epoch=following.epoch, version=following.version, tensors=poisoned(base.tensors))
    dense = next(name for name in good.tensors if "/" not in name)
    yield Damaged("junk", [b"\x00 junk"], "malformed|not a part")
    yield Damaged("no bytes", [b""], "not a part")
    yield Damaged("no value", [None], "not a part")
    yield Damaged(
        "a record of somebody else", [b"{}"], "not a part", headers=[("trace-id", b"\xff\xfe"), ("arm", None)]
    )
    for value in (np.nan, np.inf):
        array = np.array(good.tensors[dense])
        array.flat[-1] = value
        yield Damaged(f"{value}", whole(replace(good, tensors={**good.tensors, dense: array})), "NaN or infinity")
    longer = np.append(good.tensors[dense], np.float32(POISON))
    yield Damaged("other shape", whole(replace(good, tensors={**good.tensors, dense: longer})), "not float32")
    double = np.asarray(good.tensors[dense], np.float64)
    yield Damaged("other type", whole(replace(good, tensors={**good.tensors, dense: double})), "not float32")
    fewer = {name: tensor for name, tensor in good.tensors.items() if name != dense}
    yield Damaged("a parameter is missing", whole(replace(good, tensors=fewer)), "missing or unknown")
    yield Damaged("of another model", whole(replace(good, fingerprint="another-0")), "of model another-0")
    yield Damaged("older epoch", whole(replace(good, epoch=at.epoch - 1, version=10**6)), "is served")
    yield Damaged(
        "older epoch, a delta", whole(replace(good, kind="delta", epoch=PUBLISHED, version=10**6)), "is served"
    )
    yield Damaged("updates are missing before it", whole(replace(good, kind="delta", version=7)), "does not follow")
    [*most, last] = parts_of(good)
    assert most
    assert last is not None
    part = msgspec.msgpack.decode(last, type=Part)
    flipped = msgspec.structs.replace(part, data=part.data[:-1] + bytes([part.data[-1] ^ 1]))
    yield Damaged("a flipped bit", [*most, msgspec.msgpack.encode(flipped)], "do not add up")
    [*most, last] = parts_of(replace(good, epoch=at.epoch))
    assert last is not None
    renamed = msgspec.structs.replace(msgspec.msgpack.decode(last, type=Part), kind="delta")
    yield Damaged("parts of two updates", [*most, msgspec.msgpack.encode(renamed)])
    yield Damaged("half an update", most)
    # As a trainer leaves it that dies while it publishes its first base: it must not shut out its rival's updates.
    yield Damaged("half an update of a newer epoch", parts_of(good)[:-1])


def test_a_damaged_update_is_never_served_and_the_trainers_next_ones_are(
    harness: Harness, kafka: dict[str, str]
) -> None:
    settings, topic = harness.settings, harness.topics.model_updates
    learners = {arm.name: _learner(arm, harness) for arm in settings.arms}
    with harness, RawWriter(kafka) as raw:
        for arm, learner in learners.items():
            _check_poison(learner, settings.arms[0] if arm == "sam" else settings.arms[1], settings.seed)
            update = learner.base(arm)
            headers: Headers = [
                ("arm", arm),
                ("kind", "base"),
                ("epoch", str(PUBLISHED)),
                ("version", "0"),
                ("samples", "0"),
                ("clicks", b""),
            ]
            raw.write(topic, split(update, 800_000)[0], key=f"{arm}/published".encode(), headers=headers)
        harness.processes.start("trainer", "trainer")
        log = harness.processes.log("worker")
        harness.start_worker("worker", "--log-level", "DEBUG")
        harness.wander(300)

        def served() -> dict[str, Version]:
            newest: dict[str, Version] = {}
            for score in harness.answers.values():
                newest[score.arm] = max(newest.get(score.arm, Version()), Version(score.epoch, score.version))
            return newest

        def trainer_serves_both(beyond: int) -> bool:
            harness.traffic(2)
            newest = served()
            return len(newest) == 2 and all(at.epoch > PUBLISHED and at.version > beyond for at in newest.values())

        wait_for(lambda: trainer_serves_both(0), "updates of the trainer to be served", processes=harness.processes)
        assert {at.epoch for at in served().values()} == {PUBLISHED + 1}

        for arm, learner in learners.items():
            before = {each: at.version for each, at in served().items()}
            for damaged in damaged_updates(learner, arm, served()[arm]):
                already = _refusals(log, damaged.word)
                for number, record in enumerate(damaged.records):
                    key = f"{arm}/{damaged.what}/{number}".encode()
                    raw.write(topic, record, key=key, headers=None if number else damaged.headers)
                harness.traffic(1)
                if damaged.word:
                    wait_for(
                        lambda word=damaged.word, known=already: _refusals(log, word) > known,  # type: ignore[misc]
                        f"{damaged.what} to be refused because {damaged.word}",
                        processes=harness.processes,
                    )
            newest = max(before.values()) + 1
            wait_for(
                lambda beyond=newest: trainer_serves_both(beyond),  # type: ignore[misc]
                f"the trainer's updates after damaged ones of {arm}",
                processes=harness.processes,
            )
        harness.settle()
        _check_answers(list(harness.answers.values()))


def _learner(arm: ArmSettings, harness: Harness) -> Learner:
    learner = Learner(arm.spec(), arm.optim, seed=harness.settings.seed)
    learner.begin_epoch(PUBLISHED)
    return learner


def _check_poison(learner: Learner, arm: ArmSettings, seed: int) -> None:
    """See that a scorer which takes the poison shows it; that it does take it when nothing else is wrong with it."""
    scorer = Scorer(arm.spec(), seed=seed)
    base = learner.base(arm.name)
    scorer.apply(replace(base, epoch=99, tensors=poisoned(base.tensors)))
    items = np.array([item_key(item) for item in ITEMS[:5]], np.uint64)
    [predicted] = scorer.score([Example(np.zeros(0, BEHAVIOR), 1, items, np.zeros(5, np.uint32))])
    assert ((predicted < 1e-6) | (predicted > 1 - 1e-6)).all(), predicted


def _check_answers(answers: list[Score]) -> None:
    """See that every probability is a trained model's, and that no arm ever served an older version than before."""
    for answer in answers:
        assert all(0.001 < probability < 0.999 for probability in answer.probabilities), answer
        assert answer.epoch <= PUBLISHED + 1, answer
    for arm in {answer.arm for answer in answers}:
        served = [(answer.epoch, answer.version) for answer in answers if answer.arm == arm]
        assert len(set(served)) > 2, "the arm's model never changed"


def _refusals(log: Path, word: str) -> int:
    return len(re.findall(rf"update_refused .*({word})", log.read_text())) if word else 0
