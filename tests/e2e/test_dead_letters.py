"""Refused records are listed with their reason, and sent again once the cause is mended."""

import json
import time
from pathlib import Path

import pytest

from model.serialization import checkpoint
from model.serialization.checkpoint import Checkpoint
from stream.kafka.dead_letters import DeadLetter, read_dead_letters, send_dead_letter
from stream.kafka.producer import ReliableProducer
from stream.schema.events import Click, decode_score, encode_json, encode_packed
from stream.schema.partitioner import partition_of
from stream.schema.record import Record
from stream.schema.topics import Topics
from stream.trainer.training import Training
from tests.e2e.forked import run_forked
from tests.e2e.harness import Harness, wait_for
from tests.e2e.raw import RawWriter, good_sample
from tests.stream.trainer.support import poisoned, sample


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Harness:
    return Harness(kafka, topics, topic_prefix, tmp_path)


def command(harness: Harness, *arguments: str) -> tuple[int, str]:
    config = str(harness.directory / "settings.json")
    done = run_forked(["dead-letters", *arguments, "--config", config], {"COLUMNS": "250"}, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_impressions_refused_for_a_limit_are_answered_after_it_was_raised_and_they_were_sent_again(
    harness: Harness,
) -> None:
    narrow = ("--set", "worker.max_candidates=5", "--set", "worker.model_wait_s=0")
    with harness:
        harness.start_worker("narrow", *narrow)
        for _ in range(6):
            harness.ask()
        sender = ReliableProducer(harness.settings.kafka)
        sender.send(harness.topics.behaviors, b"[not json]", key="user-1")
        sender.flush()

        def all_refused() -> bool:
            return len(list(read_dead_letters(harness.settings.kafka, harness.topics))) == 7

        wait_for(all_refused, "seven dead letters", processes=harness.processes)
        status, text = command(harness, "list")
        assert status == 0, text
        assert "7 of 7 dead letters" in text
        assert text.count("8 candidates; at most 5 are scored") == 6
        assert "[not json]" in text
        assert "1 of 1 dead letters" in command(harness, "list", "--topic", "behaviors")[1]
        assert "2 of 3 dead letters" in command(harness, "list", "--offsets", "1-3", "--limit", "2")[1]

        harness.end("narrow")
        harness.start_worker("wide", "--set", "worker.model_wait_s=0")
        assert "6 would be sent again" in command(harness, "resend", "--reason", "candidates", "--dry-run")[1]
        harness.react(0.5)
        assert not harness.answers
        status, text = command(harness, "resend", "--reason", "candidates")
        assert status == 0, text
        assert f"{harness.topics.impressions}: 6 sent again" in text
        harness.await_answers()


def test_a_letter_of_which_only_the_head_was_kept_is_not_sent_again(harness: Harness) -> None:
    sender = ReliableProducer(harness.settings.kafka)
    record = Record(harness.topics.samples, 0, 17, 1, b"user-1", b"x" * 2_000_000)
    send_dead_letter(sender, harness.topics, record, "too long")
    sender.flush()
    status, text = command(harness, "resend")
    assert status == 1
    assert f"the whole is at {harness.topics.samples}/0, offset 17" in " ".join(text.split())
    assert "nothing to send" in text
    harness.client.close()


def test_a_sample_whose_step_is_not_finite_is_kept_and_the_trainer_goes_on_also_after_a_crash(harness: Harness) -> None:
    """In the checkpoint that the trainer starts from, one item has a vector that no step survives."""
    taught = Training(harness.settings, device="cpu")
    poisoned(taught.arms["sam"], 999)
    states = {name: trainer.save() for name, trainer in taught.arms.items()}
    checkpoint.save(harness.directory / "checkpoints", Checkpoint(1, {}, states, taught.seen.to_array()))

    def letters() -> list[DeadLetter]:
        return list(read_dead_letters(harness.settings.kafka, harness.topics))

    def send(raw: RawWriter, request: str, *items: int) -> Record:
        value = encode_packed(sample(request, *items, arm="sam", sequence=good_sample(request).sequence))
        return raw.write(harness.topics.samples, value, key=b"u")

    with harness, RawWriter(harness.settings.kafka) as raw:
        harness.processes.start("trainer-1", "trainer")
        send(raw, "a")
        bad = send(raw, "b", 1, 999)
        send(raw, "c")
        wait_for(lambda: harness.trained() == 8, "a checkpoint behind the three", processes=harness.processes)
        harness.kill("trainer-1")
        assert [letter.origin for letter in letters()] == [bad]

        harness.processes.start("trainer-2", "trainer")
        again = send(raw, "b", 1, 999)
        send(raw, "a")
        send(raw, "d")
        wait_for(lambda: harness.trained() == 13, "a checkpoint behind all", processes=harness.processes)
        harness.processes.stop()
    found = letters()
    assert [letter.origin for letter in found] == [bad, again]
    assert {letter.refused_by for letter in found} == {"trainer"}
    assert all("not finite: not learned by sam" in letter.reason for letter in found)
    saved = checkpoint.load_newest(harness.directory / "checkpoints").checkpoint
    assert saved is not None
    counts = {"samples": 13, "skipped": 4, "refused": 2, "repeated": 1}
    assert saved.counts == counts | {"samples_without_statistics": 13}, "none of these was served"


def test_what_a_letter_says_of_itself_neither_commands_a_terminal_nor_chooses_any_topic(harness: Harness) -> None:
    sender = ReliableProducer(harness.settings.kafka)
    record = Record(harness.topics.model_updates, 0, 17, 1, b"\x1b]0;owned\x07", b"\x1b[2Jgone\nforged")
    send_dead_letter(sender, harness.topics, record, "\x1b[2J[red]reason")
    sender.flush()
    _, text = command(harness, "list")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert r"\x1b[2J[red]reason" in text
    assert r"\x1b[2Jgone\nforged" in text
    status, text = command(harness, "resend")
    assert status == 1
    assert f"{harness.topics.model_updates}/0, offset 17" in " ".join(text.split())
    assert "nothing to send" in text
    harness.client.close()


def test_a_records_own_headers_are_in_its_letter_and_on_what_is_sent_again(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    quick = {"attribution_window_s": 1.0, "allowed_lateness_s": 0.0, "idle_timeout_s": 0.5, "model_wait_s": 0.0}
    harness = Harness(kafka, topics, topic_prefix, tmp_path, worker=quick)
    headers: list[tuple[str, str | bytes | None]] = [("traceparent", b"00-ab\xff"), ("reason", b"retry"), ("x", None)]
    user = harness.users[0].encode()
    place = partition_of(user, 4)
    late = encode_json(Click("nobody asked", user.decode(), "item-1", round(1000 * time.time())))
    with harness, RawWriter(kafka) as raw:
        harness.processes.start("trainer", "trainer")
        harness.start_worker("worker")
        refused = {
            raw.write(topics.behaviors, b"[not json]", key=user, partition=place, headers=headers)[:3],
            raw.write(topics.samples, b"no sample", key=user, partition=place, headers=headers)[:3],
            # Known as unusable only when its window has closed.
            raw.write(topics.clicks, late, key=user, partition=place, headers=headers)[:3],
            raw.write(topics.impressions, b"{}", key=user, partition=place)[:3],
        }

        def letters() -> dict[tuple[object, ...], DeadLetter]:
            return {letter.origin[:3]: letter for letter in read_dead_letters(kafka, topics)}

        wait_for(lambda: letters().keys() >= refused, "four dead letters", processes=harness.processes)
        found = letters()
        assert {where[0]: letter.origin.headers for where, letter in found.items()} == {
            topics.behaviors: tuple(headers),
            topics.samples: tuple(headers),
            topics.clicks: tuple(headers),
            topics.impressions: (),
        }
        assert found[topics.behaviors, place, 0].reason == "Expected `object`, got `array`"
        status, text = command(harness, "resend", "--topic", "behaviors")
        assert status == 0, text
        again = harness.messages(topics.behaviors)
        assert [message.headers() for message in again] == [headers, headers]


def test_null_for_no_category_no_action_and_the_usual_slots_is_taken(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    harness = Harness(kafka, topics, topic_prefix, tmp_path)
    user, now = harness.users[0], round(1000 * time.time())
    behavior = {"user": user, "item": "item-1", "ts": now - 1000, "category": None, "action": None}
    asked = {"request_id": "r", "user": user, "ts": now, "slots": None, "candidates": [{"item": "a", "category": None}]}
    with harness, RawWriter(kafka) as raw:
        place = partition_of(user.encode(), 4)
        harness.start_worker("worker", "--set", "worker.model_wait_s=0")
        raw.write(topics.behaviors, json.dumps(behavior).encode(), key=user.encode(), partition=place)
        raw.write(topics.impressions, json.dumps(asked).encode(), key=user.encode(), partition=place)
        wait_for(lambda: bool(harness.read(topics.scores)), "the answer", processes=harness.processes)
        [score] = map(decode_score, harness.read(topics.scores))
        assert (score.items, score.slots, score.seen) == (["a"], 1, 1)
        assert not list(read_dead_letters(kafka, topics))
